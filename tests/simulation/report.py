# SPDX-License-Identifier: Apache-2.0
"""The results of the simulator as tables in Markdown; the same at every run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tests.simulation import optimum, simulator, traces
from tests.simulation.simulator import Result
from tests.simulation.workload import Workload

RESIDENCIES_S = (0.0, 10.0, 30.0, 60.0)


def of_traces(workloads: Iterable[Workload]) -> Iterator[str]:
    """What came of each trace, and how long the clients of each model waited."""
    results = [simulator.run(workload) for workload in workloads]
    yield from _head(
        *("Trace", "Requests", "Loads", "Fewest", "In order"),
        *("Drains", "Left", "Refused", "Starved", "Took"),
    )
    for result in results:
        yield _loads(result)
    yield ""
    yield from _head("Trace", "Model", "Answered", "p50", "p99", "Longest", "Never more than")
    for result in results:
        yield from _waits(result)


def of_residency() -> Iterator[str]:
    """What `min_residency` does to the traces that it is for."""
    yield from _head("Trace", "min_residency", "Loads", "Took", "Longest wait")
    for workload in (traces.abc(), traces.two_agents()):
        for residency_s in RESIDENCIES_S:
            rules = replace(workload.rules, min_residency_s=residency_s)
            result = simulator.run(replace(workload, rules=rules))
            longest_s = max(one.wait_s for one in result.answered)
            yield _row(
                workload.name,
                f"{residency_s:.0f} s",
                result.count.loads,
                f"{result.took_s / 60:.0f} min",
                f"{longest_s:.0f} s",
            )


def _loads(result: Result) -> str:
    fewest = optimum.fewest_loads(result.workload)
    in_order = optimum.loads_in_order(result.workload)
    return _row(
        result.workload.name,
        result.workload.requests,
        result.count.loads,
        "?" if fewest is None else fewest,
        "" if in_order is None else in_order,
        result.count.drains,
        result.left,
        result.refused.total(),
        len(result.starved()),
        f"{result.took_s / 60:.0f} min",
    )


def _waits(result: Result) -> Iterator[str]:
    bound_s = simulator.longest_wait_s(result.workload)
    for model_id, waits in result.waits().items():
        times = (f"{s:.0f} s" for s in (waits.p50_s, waits.p99_s, waits.max_s, bound_s))
        yield _row(result.workload.name, model_id, waits.requests, *times)


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|" + "---|" * len(names)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
