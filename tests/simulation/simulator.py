# SPDX-License-Identifier: Apache-2.0
"""Runs a workload to its end, and reports the result of every request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from sparkd.core.scheduling.policy import PolicyInput
from tests.simulation.gateway import Asked, End, Gateway
from tests.simulation.sim_host import Count
from tests.simulation.virtual_time import Clock
from tests.simulation.workload import Line, Request, Workload

MEMORY_PATIENCE_S = PolicyInput(now=0.0).memory_patience_s
REFUSED_PAUSE_S = 1.0
"""A client that was refused asks for its next thing after this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Seconds from the request to the grant, of one model's answered requests."""

    requests: int
    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    workload: Workload
    asked: tuple[Asked, ...]
    count: Count
    took_s: float
    """From the first request to the end of the last one."""
    left_over: int
    """Requests that nothing will ever end: none, or the queue is wedged."""

    @property
    def answered(self) -> list[Asked]:
        return [one for one in self.asked if one.end is End.ANSWERED]

    @property
    def refused(self) -> Counter[str]:
        return Counter(one.error.code for one in self.asked if one.error is not None)

    @property
    def left(self) -> int:
        return sum(one.end is End.LEFT for one in self.asked)

    def waits(self) -> dict[str, Waits]:
        found = {}
        for model in self.workload.models:
            waits = sorted(
                one.wait_s for one in self.answered if one.request.model_id == model.model_id
            )
            if waits:
                found[model.model_id] = Waits(
                    requests=len(waits),
                    p50_s=waits[len(waits) // 2],
                    p99_s=waits[min(len(waits) - 1, len(waits) * 99 // 100)],
                    max_s=waits[-1],
                )
        return found

    def starved(self) -> list[Asked]:
        """Answered requests that waited longer than they ever need to."""
        return [one for one in self.answered if one.wait_s > longest_wait_s(self.workload)]


def longest_wait_s(workload: Workload) -> float:
    """What no request waits longer than: `max_wait`, then a turn of each model at worst.

    A turn is: what is in the way ends its requests and is stopped, its memory comes back, the
    model loads and has its minimum residency. A load that is taken back is stopped once more, and
    where other programs have the memory, one waits a while before one is refused.
    """
    rules = workload.rules
    drain_s = max((r.service_s for line in workload.lines for r in line.requests), default=0.0)
    recovery_s = workload.host.recovery_s if workload.host else 0.0
    patience_s = MEMORY_PATIENCE_S if workload.host else 0.0
    residency_s = min(rules.min_residency_s, rules.max_wait_s)
    turns_s = sum(
        drain_s + 2 * model.stop_s + recovery_s + patience_s + model.load_s + residency_s + 1.0
        for model in workload.models
    )
    return rules.max_wait_s + turns_s


def run(workload: Workload, *, limit_s: float = 1e7) -> Result:
    """Play a workload. Raises AssertionError as soon as something happens that never may."""
    clock = Clock()
    gateway = Gateway(workload, clock)
    for line in workload.lines:
        requests = iter(line.requests)
        for _ in range(line.clients):
            _Client(gateway, line, requests).begin()
    for at_s, model_id in workload.reloads:
        clock.at(at_s, partial(gateway.reload, model_id))
    for at_s in workload.kills:
        clock.at(at_s, gateway.kill)
    clock.run(limit_s)
    asked = tuple(gateway.asked)
    open_ones = sum(one.end is None for one in asked)
    first_s = min((one.at_s for one in asked), default=0.0)
    last_s = max((one.ended_s for one in asked if one.end is not None), default=0.0)
    return Result(
        workload=workload,
        asked=asked,
        count=gateway.house.count,
        took_s=last_s - first_s,
        left_over=open_ones + workload.requests - len(asked),
    )


@dataclass(slots=True, eq=False)
class _Client:
    """Takes the next request of its line when its last one has ended."""

    gateway: Gateway
    line: Line
    requests: Iterator[Request]
    last: Asked | None = None

    def begin(self) -> None:
        self.gateway.clock.at(self.line.at_s, self._next)

    def _next(self) -> None:
        request = next(self.requests, None)
        if request is not None:
            self.last = None
            self.last = self.gateway.ask(request, self._ended)

    def _ended(self) -> None:
        refused = self.last is None or self.last.end is not End.ANSWERED
        self.gateway.clock.after(REFUSED_PAUSE_S if refused else self.line.think_s, self._next)
