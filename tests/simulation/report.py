# SPDX-License-Identifier: Apache-2.0
"""The results of the named traces as two tables in Markdown; the same at every run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.simulation import optimum, simulator
from tests.simulation.simulator import Result
from tests.simulation.workload import Workload


def lines(workloads: Iterable[Workload]) -> Iterator[str]:
    results = [simulator.run(workload) for workload in workloads]
    yield "| Trace | Requests | Loads | Fewest | In order | Drains | Left | Refused | Starved | Took |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for result in results:
        yield _loads(result)
    yield ""
    yield "| Trace | Model | Answered | p50 | p99 | Longest | Never more than |"
    yield "|---|---|---|---|---|---|---|"
    for result in results:
        yield from _waits(result)


def _loads(result: Result) -> str:
    workload, count = result.workload, result.count
    fewest, in_order = optimum.fewest_loads(workload), optimum.loads_in_order(workload)
    cells = (
        workload.name,
        workload.requests,
        count.loads,
        "?" if fewest is None else fewest,
        "" if in_order is None else in_order,
        count.drains,
        result.left,
        result.refused.total(),
        len(result.starved()),
        f"{result.took_s / 60:.0f} min",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _waits(result: Result) -> Iterator[str]:
    bound_s = simulator.longest_wait_s(result.workload)
    for model_id, waits in result.waits().items():
        times = (f"{s:.0f} s" for s in (waits.p50_s, waits.p99_s, waits.max_s, bound_s))
        yield f"| {result.workload.name} | {model_id} | {waits.requests} | {' | '.join(times)} |"
