# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.simulation`: replay the named traces and print what came of them."""

from __future__ import annotations

from tests.simulation.optimum import fewest_loads
from tests.simulation.simulator import Result, run
from tests.simulation.traces import named


def main() -> None:
    print("| trace | requests | loads | fewest | refused | left | longest wait s | starved |")
    print("|---|---|---|---|---|---|---|---|")
    for workload in named():
        print(_row(run(workload)))


def _row(result: Result) -> str:
    fewest = fewest_loads(result.workload)
    longest_s = max((waits.max_s for waits in result.waits().values()), default=0.0)
    cells = (
        result.workload.name,
        len(result.asked),
        result.count.loads,
        "-" if fewest is None else fewest,
        sum(result.refused.values()),
        result.left,
        f"{longest_s:.0f}",
        len(result.starved()) + result.left_over,
    )
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    main()
