# SPDX-License-Identifier: Apache-2.0
"""How few loads a workload can be served with, computed without the policy or the simulator.

If nobody minded waiting, one would let everybody who can be served be served, until all clients
wait for models that are not resident, and only then load another one. Serving somebody never does
harm: all that could be served without it still can. So the only choice is which model comes next,
and a breadth-first search over these choices finds the fewest loads. Memory, the times of arrival
and impatience are left out, so no real schedule needs fewer.
"""

from __future__ import annotations

from sparkd.core.model import Lifecycle
from tests.simulation.workload import Line, Workload

STATES_MAX = 200_000

Position = tuple[int, tuple[str, ...]]
"""Of a line: how many of its requests were taken, and those taken that are not answered."""
State = tuple[frozenset[str], tuple[tuple[int, Position], ...]]
"""Who is resident, and the lines that are not finished, by number."""


def fewest_loads(workload: Workload) -> int | None:
    """The fewest loads that serve every request; None when that takes too long to find out."""
    lines = _merged(workload.lines)
    lifecycles = {model.model_id: model.lifecycle for model in workload.models}
    nobody: frozenset[str] = frozenset()
    begin = _serve(nobody, dict.fromkeys(range(len(lines)), (0, ())), lines)
    level, seen, loads = {begin}, {begin}, 0
    while level:
        if any(not waiting for _, waiting in level):
            return loads
        found: set[State] = set()
        for residents, positions in level:
            for model_id in {model for _, (_, open_) in positions for model in open_}:
                beside = {
                    other
                    for other in residents
                    if not _exclude_each_other(lifecycles[other], lifecycles[model_id])
                }
                found.add(_serve(frozenset({*beside, model_id}), dict(positions), lines))
        level = found - seen
        seen |= level
        loads += 1
        if len(seen) > STATES_MAX:
            return None
    return loads


def loads_in_order(workload: Workload) -> int | None:
    """How many loads strict first come, first served takes: every change of model is one.

    None when the order in which the requests come depends on how they are served.
    """
    lines = sorted(workload.lines, key=lambda line: line.at_s)
    if len(lines) > 1 and not all(_is_single(line) for line in lines):
        return None
    lifecycles = {model.model_id: model.lifecycle for model in workload.models}
    residents: set[str] = set()
    loads = 0
    for request in (request for line in lines for request in line.requests):
        if request.model_id not in residents:
            mine = lifecycles[request.model_id]
            residents = {m for m in residents if not _exclude_each_other(lifecycles[m], mine)}
            residents.add(request.model_id)
            loads += 1
    return loads


def _merged(lines: tuple[Line, ...]) -> list[Line]:
    """Single requests as one line with a client each: who asks for what when does not matter."""
    single = {line.requests[0].model_id: line.requests[0] for line in lines if _is_single(line)}
    merged = [Line(requests=tuple(single.values()), clients=len(single))] if single else []
    return merged + [line for line in lines if not _is_single(line)]


def _is_single(line: Line) -> bool:
    return len(line.requests) == 1


def _exclude_each_other(one: Lifecycle, other: Lifecycle) -> bool:
    """Spelt out anew: exclusive stands alone, two normal ones never stand together."""
    if Lifecycle.EXCLUSIVE in (one, other):
        return True
    return one is other is Lifecycle.NORMAL


def _serve(residents: frozenset[str], positions: dict[int, Position], lines: list[Line]) -> State:
    """Serve whoever waits for a resident, and whoever takes the next request, to a standstill."""
    after = []
    for number, (taken, open_) in positions.items():
        line = lines[number]
        waiting = [model for model in open_ if model not in residents]
        coming = iter(line.requests[taken:])
        while len(waiting) < line.clients and (request := next(coming, None)) is not None:
            if request.model_id not in residents:
                waiting.append(request.model_id)
        if waiting:
            after.append((number, (len(line.requests) - len(list(coming)), tuple(sorted(waiting)))))
    return residents, tuple(after)
