# SPDX-License-Identifier: Apache-2.0
"""The fewest loads of workloads that can be solved on paper."""

from __future__ import annotations

import pytest

from sparkd.core.model import Lifecycle
from tests.simulation.optimum import fewest_loads, loads_in_order
from tests.simulation.workload import Line, Model, Request, Workload

UTILITY, NORMAL, EXCLUSIVE = Lifecycle


def workload(*lines: Line, exclusive: str = "", utility: str = "") -> Workload:
    def lifecycle(name: str) -> Lifecycle:
        return EXCLUSIVE if name in exclusive else UTILITY if name in utility else NORMAL

    models = tuple(Model(model_id=name, lifecycle=lifecycle(name)) for name in "ABC")
    return Workload(name="paper", models=models, lines=lines)


def line(names: str, clients: int = 1, at_s: float = 0.0) -> Line:
    requests = tuple(Request(model_id=name) for name in names)
    return Line(requests=requests, clients=clients, at_s=at_s)


@pytest.mark.parametrize(
    ("lines", "fewest"),
    [
        ((), 0),
        ((line("A"),), 1),
        ((line("AAAA"),), 1),
        ((line("ABAB"),), 4),  # one client has to go one by one
        ((line("ABAB", clients=2),), 2),  # the second client takes the second A
        ((line("ABABAB", clients=2),), 3),
        ((line("ABABAB", clients=4),), 2),
        ((line("AB"), line("BA")), 3),  # A B A serves both
        ((line("ABC"), line("ABC"), line("ABC")), 3),
        ((line("A"), line("B"), line("A"), line("B")), 2),
        ((line("ABC"), line("CBA")), 5),
    ],
)
def test_main_models_are_loaded_as_seldom_as_their_clients_allow(
    lines: tuple[Line, ...], fewest: int
) -> None:
    assert fewest_loads(workload(*lines)) == fewest


def test_utility_stays_beside_main_models_and_leaves_for_an_exclusive_one() -> None:
    assert fewest_loads(workload(line("CACBCA"), utility="C")) == 4
    assert fewest_loads(workload(line("CACBC"), utility="C", exclusive="B")) == 4


def test_in_order_every_change_of_model_is_a_load() -> None:
    assert loads_in_order(workload(line("ABCABC"))) == 6
    assert loads_in_order(workload(line("CACBC"), utility="C")) == 3
    later_first = (line("A", at_s=2.0), line("B", at_s=1.0), line("A", at_s=0.0))
    assert loads_in_order(workload(*later_first)) == 3
    assert loads_in_order(workload(line("AB"), line("BA"))) is None
