# SPDX-License-Identifier: Apache-2.0
"""Named workloads, each the same at every run."""

from __future__ import annotations

import random

from sparkd.core.model import Lifecycle
from tests.simulation.workload import GIB, Host, Line, Model, Request, Rules, Workload

A, B, C = (Model(model_id=name, load_s=90.0, peak_bytes=80 * GIB) for name in "ABC")


def abc(
    *, rounds: int = 100, clients: int = 20, load_s: float = 90.0, rules: Rules | None = None
) -> Workload:
    """A B C A B C ... as one list of jobs that `clients` clients work off."""
    models = tuple(Model(model_id=name, load_s=load_s) for name in "ABC")
    jobs = tuple(Request(model_id=name, service_s=2.0) for _ in range(rounds) for name in "ABC")
    lines = (Line(requests=jobs, clients=clients),)
    return Workload(
        name=f"ABCABC, {clients} clients", models=models, lines=lines, rules=rules or Rules()
    )


def conversations(*, rounds: int = 10, clients: int = 20) -> Workload:
    """Every client walks A B C A B C ... by itself, beginning at any of them."""
    models = (A, B, C)
    lines = tuple(
        Line(
            requests=tuple(
                Request(model_id="ABC"[(start + step) % 3], service_s=2.0)
                for step in range(3 * rounds)
            ),
            at_s=0.1 * start,
            think_s=0.5,
        )
        for start in range(clients)
    )
    return Workload(name=f"ABCABC, {clients} clients alone", models=models, lines=lines)


def busy_and_starving() -> Workload:
    """Eight clients keep A in use without a gap for an hour; B is asked for every ten minutes."""
    kept = tuple(Request(model_id="A", service_s=20.0) for _ in range(8 * 180))
    rare = tuple(
        Line(requests=(Request(model_id="B"),), at_s=300.0 + 600.0 * number) for number in range(6)
    )
    lines = (Line(requests=kept, clients=8), *rare)
    return Workload(name="busy A, rare B", models=(A, B), lines=lines)


def two_agents() -> Workload:
    """Two clients, each with a model of its own, ask again as soon as they are answered."""
    lines = tuple(
        Line(requests=tuple(Request(model_id=name) for _ in range(100)), think_s=0.2)
        for name in "AB"
    )
    return Workload(name="two agents", models=(A, B), lines=lines)


def mixed(*, seed: int = 1, requests: int = 1000) -> Workload:
    """A utility model asked for all the time, a normal one often, an exclusive one now and then."""
    chance = random.Random(seed)
    models = (
        Model(model_id="embed", lifecycle=Lifecycle.UTILITY, load_s=20.0, peak_bytes=8 * GIB),
        Model(model_id="chat", load_s=90.0, peak_bytes=80 * GIB),
        Model(model_id="big", lifecycle=Lifecycle.EXCLUSIVE, load_s=200.0, peak_bytes=115 * GIB),
    )
    lines, at_s = [], 0.0
    for _ in range(requests):
        at_s += chance.expovariate(1 / 8.0)
        name = chance.choices(("embed", "chat", "big"), (70, 28, 2))[0]
        service_s = chance.expovariate(1 / (1.0 if name == "embed" else 15.0))
        lines.append(Line(requests=(Request(model_id=name, service_s=service_s),), at_s=at_s))
    return Workload(name="utility and exclusive", models=models, lines=tuple(lines), host=Host())


def random_arrivals(*, seed: int = 1, requests: int = 5000, gap_s: float = 6.0) -> Workload:
    """Random requests over eight models of all kinds, some popular; some clients give up."""
    chance = random.Random(seed)
    models = tuple(
        Model(
            model_id=f"m{number}",
            lifecycle=(
                Lifecycle.UTILITY
                if number in (1, 4)
                else Lifecycle.EXCLUSIVE
                if number == 7
                else Lifecycle.NORMAL
            ),
            load_s=chance.uniform(20.0, 180.0),
            stop_s=chance.uniform(1.0, 8.0),
            peak_bytes=(8 if number in (1, 4) else chance.randint(30, 100)) * GIB,
        )
        for number in range(8)
    )
    weights = [1 / (rank + 1) for rank in range(8)]
    lines, at_s = [], 0.0
    for _ in range(requests):
        at_s += chance.expovariate(1 / gap_s)
        request = Request(
            model_id=chance.choices(models, weights)[0].model_id,
            service_s=chance.expovariate(1 / 8.0),
            patience_s=chance.choices((float("inf"), chance.uniform(10.0, 300.0)), (9, 1))[0],
        )
        lines.append(Line(requests=(request,), at_s=at_s))
    return Workload(
        name=f"{requests} at random",
        models=models,
        lines=tuple(lines),
        rules=Rules(queue_timeout_s=36000.0),
        host=Host(),
    )


def named() -> tuple[Workload, ...]:
    return (
        abc(),
        conversations(),
        busy_and_starving(),
        two_agents(),
        mixed(),
        random_arrivals(),
    )
