# SPDX-License-Identifier: Apache-2.0
"""What holds for every workload. The gateway asserts the rest at every moment of virtual time:
main models never side by side, an exclusive one alone, none stopped while in use or without its
lock, no two transitions of one model at once, no memory promised twice, no wait for nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkd.core.model import Lifecycle
from tests.simulation import optimum, simulator
from tests.simulation.gateway import Asked, End
from tests.simulation.simulator import Result
from tests.simulation.workload import GIB, Host, Line, Model, Request, Rules, Workload

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

rules = st.builds(
    Rules,
    max_wait_s=st.sampled_from([60.0, 0.0, 5.0, 300.0]),
    min_residency_s=st.sampled_from([30.0, 0.0, 5.0, 400.0]),
    idle_timeout_s=st.sampled_from([1200.0, 1.0, 20.0]),
    queue_limit=st.sampled_from([512, 512, 3]),
    queue_timeout_s=st.just(1e6),
    finish_abandoned_loads=st.booleans(),
)
hosts = st.builds(
    Host,
    recovery_s=st.sampled_from([0.0, 2.0, 15.0]),
    others=st.lists(
        st.tuples(
            st.sampled_from([0.0, 50.0]),
            st.sampled_from([100.0, 1e9]),
            st.sampled_from([20 * GIB, 60 * GIB]),
        ),
        max_size=1,
    ).map(tuple),
)


@st.composite
def catalogs(draw: st.DrawFn) -> tuple[Model, ...]:
    return tuple(
        Model(
            model_id=f"m{number}",
            lifecycle=draw(st.sampled_from(Lifecycle)),
            load_s=draw(st.sampled_from([0.0, 1.0, 30.0, 90.0])),
            stop_s=draw(st.sampled_from([0.0, 1.0, 10.0])),
            peak_bytes=(size := draw(st.sampled_from([0, 5, 20, 50, 80, 110, 130]))) * GIB,
            known=size > 120 or draw(st.booleans()),
            failing=draw(st.frozensets(st.integers(1, 7), max_size=2)),
        )
        for number in range(draw(st.integers(1, 5)))
    )


@st.composite
def small(draw: st.DrawFn) -> Workload:
    """Up to thirty requests, every detail of which can be made simpler."""
    models = draw(catalogs())
    requests = st.builds(
        Request,
        model_id=st.sampled_from([model.model_id for model in models]),
        service_s=st.sampled_from([0.0, 1.0, 20.0, 100.0]),
        patience_s=st.sampled_from([float("inf"), float("inf"), 0.5, 40.0, 100.0]),
    )
    lines = st.builds(
        Line,
        requests=st.lists(requests, min_size=1, max_size=6).map(tuple),
        at_s=st.sampled_from([0.0, 1.0, 30.0, 59.0, 200.0]),
        clients=st.integers(1, 3),
        think_s=st.sampled_from([0.0, 0.01, 0.5, 10.0]),
    )
    reloads = st.tuples(st.sampled_from([10.0, 100.0]), st.sampled_from(models))
    return Workload(
        name="small",
        models=models,
        lines=draw(st.lists(lines, min_size=1, max_size=5).map(tuple)),
        rules=draw(rules),
        host=draw(st.none() | hosts),
        reloads=tuple((at_s, m.model_id) for at_s, m in draw(st.lists(reloads, max_size=2))),
        kills=tuple(draw(st.lists(st.sampled_from([3.0, 35.0, 65.0, 91.0]), max_size=2))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A workload of thousands of requests; drawing each of them would take too long."""

    models: tuple[Model, ...]
    rules: Rules
    host: Host | None
    number: int
    requests: int
    gap_s: float

    def grow(self) -> Workload:
        chance = random.Random(self.number)
        lines, at_s = [], 0.0
        for _ in range(self.requests):
            at_s += chance.expovariate(1 / self.gap_s)
            request = Request(
                model_id=chance.choice(self.models).model_id,
                service_s=min(200.0, chance.expovariate(1 / 10.0)),
                patience_s=chance.choice((float("inf"), chance.uniform(0.0, 200.0))),
            )
            lines.append(Line(requests=(request,), at_s=at_s))
        return Workload(
            name="large", models=self.models, lines=tuple(lines), rules=self.rules, host=self.host
        )


seeds = st.builds(
    Seed,
    models=catalogs(),
    rules=rules,
    host=st.none() | hosts,
    number=st.integers(0, 1 << 32),
    requests=st.sampled_from([10, 200, 2000]),
    gap_s=st.sampled_from([0.2, 2.0, 10.0, 60.0]),
)


def check(result: Result) -> None:
    workload = result.workload
    assert result.left_over == 0, "a request waits for ever"
    assert len(result.asked) == workload.requests
    assert {one.end for one in result.asked} <= set(End)
    assert set(result.refused) <= reasons_to_refuse(workload)
    longest_s = simulator.longest_wait_s(workload)
    for one in result.asked:
        until_s = one.ended_s if one.granted_s is None else one.granted_s
        assert until_s - one.at_s <= longest_s
    if not (workload.host and workload.host.others):  # else one waits for memory too
        for one in result.answered:
            assert one.wait_s - one.moving_s <= longest_idle_wait_s(workload, one)


def longest_idle_wait_s(workload: Workload, asked: Asked) -> float:
    """What a request may wait for beside drains, stops and loads."""
    residency_s = min(workload.rules.min_residency_s, workload.rules.max_wait_s)
    return workload.rules.max_wait_s + asked.loads * residency_s + 1.0


def reasons_to_refuse(workload: Workload) -> set[str]:
    """The codes of all refusals that anything in the workload is a reason for."""
    reasons = set()
    if workload.rules.queue_limit < workload.requests:
        reasons.add("queue_full")
    if workload.kills:
        reasons.add("killed")
    if any(model.failing for model in workload.models):
        reasons.add("start_crashed")
    if workload.host is not None:
        limit = workload.host.total_bytes - workload.host.reserve_bytes
        if any(model.peak_bytes > limit for model in workload.models):
            reasons.add("model_too_large")
        if workload.host.others:
            reasons.add("insufficient_memory")
    return reasons


@settings(CALM, max_examples=500)
@given(small())
def test_every_request_of_a_small_workload_ends_in_time(workload: Workload) -> None:
    check(simulator.run(workload))


@settings(CALM, max_examples=40)
@given(seeds)
def test_every_request_of_a_large_workload_ends_in_time(seed: Seed) -> None:
    check(simulator.run(seed.grow()))


@settings(CALM, max_examples=200)
@given(small())
def test_no_schedule_beats_the_optimum(workload: Workload) -> None:
    patient = tuple(
        replace(
            line, requests=tuple(replace(r, patience_s=float("inf")) for r in line.requests[:3])
        )
        for line in workload.lines
    )
    calm = replace(workload, lines=patient, kills=(), reloads=(), host=None)
    result = simulator.run(calm)
    fewest = optimum.fewest_loads(calm)
    assert fewest is not None
    assert result.refused or result.count.loads >= fewest
