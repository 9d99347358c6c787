# SPDX-License-Identifier: Apache-2.0
"""The guarantees for users, each in the simplest trace that shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sparkd.core.model import Lifecycle
from tests.simulation import optimum, report, simulator, traces
from tests.simulation.gateway import End
from tests.simulation.simulator import Result
from tests.simulation.workload import GIB, Host, Line, Model, Request, Rules, Workload

UTILITY, NORMAL, EXCLUSIVE = Lifecycle
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "scheduling.md"


def arrival(model_id: str, at_s: float, *, service_s: float = 5.0, **fields: float) -> Line:
    return Line(requests=(Request(model_id=model_id, service_s=service_s, **fields),), at_s=at_s)


def play(
    models: tuple[Model, ...],
    *lines: Line,
    rules: Rules | None = None,
    host: Host | None = None,
    reloads: tuple[tuple[float, str], ...] = (),
    kills: tuple[float, ...] = (),
) -> Result:
    result = simulator.run(
        Workload(
            name="trace",
            models=models,
            lines=lines,
            rules=rules or Rules(),
            host=host,
            reloads=reloads,
            kills=kills,
        )
    )
    assert result.left_over == 0
    return result


def waits_s(result: Result) -> list[float]:
    """Of each request, in the order in which they came; all were answered."""
    assert [one.end for one in result.asked] == [End.ANSWERED] * len(result.asked)
    return [round(one.wait_s, 1) for one in result.asked]


A, B = (Model(model_id=name, load_s=60.0, stop_s=5.0, peak_bytes=80 * GIB) for name in "AB")


# Batching.


@pytest.mark.parametrize("load_s", [1.0, 30.0, 90.0, 300.0])
@pytest.mark.parametrize("rounds", [10, 30, 100])
def test_twenty_clients_and_three_models_take_as_few_loads_as_batching_makes_possible(
    rounds: int, load_s: float
) -> None:
    workload = traces.abc(rounds=rounds, load_s=load_s)
    result = simulator.run(workload)
    fewest = optimum.fewest_loads(workload)
    assert fewest is not None
    assert fewest <= result.count.loads <= fewest + 1
    # Nobody waits longer than max_wait, drains and loads.
    assert len(result.answered) == workload.requests
    assert all(
        one.wait_s <= workload.rules.max_wait_s + one.moving_s + 0.1 for one in result.answered
    )


@pytest.mark.parametrize("clients", [3, 20])
def test_clients_who_change_models_by_themselves_are_served_together(clients: int) -> None:
    workload = traces.conversations(clients=clients)
    assert simulator.run(workload).count.loads == optimum.fewest_loads(workload)


def test_two_busy_models_are_not_swapped_for_every_request() -> None:
    """Their loads take longer than `max_wait`, so that everybody has always waited that long."""
    workload = traces.two_agents()
    assert workload.models[0].load_s > workload.rules.max_wait_s
    result = simulator.run(workload)
    assert len(result.answered) == workload.requests
    assert result.count.loads * 5 <= workload.requests


def test_all_who_wait_for_a_model_are_served_by_one_load() -> None:
    result = play((A,), *(arrival("A", at_s=float(n)) for n in range(50)))
    assert result.count.loads == 1
    assert waits_s(result) == [60.0 - n for n in range(50)]


# Aging.


def test_model_in_constant_use_starves_no_other() -> None:
    workload = traces.busy_and_starving()
    result = simulator.run(workload)
    assert len(result.answered) == workload.requests
    rare = [one for one in result.answered if one.request.model_id == "B"]
    busy, wanted = workload.models
    drain_s = 20.0
    assert len(rare) == 6
    for one in rare:
        assert one.wait_s <= workload.rules.max_wait_s + drain_s + busy.stop_s + wanted.load_s + 1


def test_many_models_beside_a_busy_one_are_served_in_turn() -> None:
    models = tuple(replace(A, model_id=name) for name in "ABCDEF")
    kept = Line(requests=(Request(model_id="A", service_s=10.0),) * 2000, clients=4)
    rare = (arrival(name, at_s=100.0 + n) for n, name in enumerate("BCDEF"))
    result = play(models, kept, *rare)
    assert not result.starved()
    granted = {one.request.model_id: one.granted_s for one in result.answered if one.wait_s > 60}
    order = sorted("BCDEF", key=lambda name: granted[name] or 0.0)
    assert order == list("BCDEF")


def test_without_a_wait_a_busy_model_is_drained_at_once_and_ends_its_requests() -> None:
    result = play(
        (A, B),
        arrival("A", 0.0, service_s=100.0),
        arrival("B", 70.0),
        rules=Rules(max_wait_s=0.0, min_residency_s=30.0),
    )
    drain_s = 160.0 - 70.0
    assert waits_s(result) == [60.0, drain_s + A.stop_s + B.load_s]


def test_residency_longer_than_the_longest_wait_is_cut_to_it() -> None:
    result = play(
        (A, B),
        arrival("A", 0.0),
        arrival("B", 66.0),
        rules=Rules(max_wait_s=10.0, min_residency_s=500.0),
    )
    assert waits_s(result) == [60.0, 4.0 + A.stop_s + B.load_s]


# Lifecycles.


def test_utility_serves_beside_a_main_model_and_never_beside_an_exclusive_one() -> None:
    models = (
        Model(model_id="u", lifecycle=UTILITY, load_s=10.0),
        A,
        Model(model_id="e", lifecycle=EXCLUSIVE, load_s=100.0),
    )
    result = play(
        models,
        arrival("u", 0.0),
        arrival("A", 1.0),
        arrival("u", 70.0),
        arrival("e", 200.0, service_s=50.0),
        arrival("u", 320.0),
    )
    assert waits_s(result)[:3] == [10.0, 60.0, 0.0]
    assert result.count.evictions == 3  # both for the exclusive one, and that one for the utility
    assert not result.starved()


def test_exclusive_model_gets_its_turn_between_utilities_in_constant_use() -> None:
    models = tuple(
        Model(model_id=name, lifecycle=UTILITY if name != "e" else EXCLUSIVE, load_s=20.0)
        for name in ("u", "v", "e")
    )
    kept = (
        Line(requests=(Request(model_id=name, service_s=8.0),) * 200, clients=2)
        for name in ("u", "v")
    )
    result = play(models, *kept, arrival("e", 100.0))
    (wait_s,) = (one.wait_s for one in result.answered if one.request.model_id == "e")
    assert wait_s <= 60.0 + 2 * 8.0 + 2 * 5.0 + 20.0 + 1


def test_mix_of_all_lifecycles_starves_nobody() -> None:
    result = simulator.run(traces.mixed())
    assert len(result.answered) == result.workload.requests
    assert not result.starved()


# Memory.


def test_utility_that_lacks_memory_beside_a_busy_main_model_gets_its_turn() -> None:
    small = Model(model_id="u", lifecycle=UTILITY, load_s=10.0, peak_bytes=60 * GIB)
    kept = Line(requests=(Request(model_id="A", service_s=10.0),) * 400, clients=3)
    result = play((A, small), kept, arrival("u", 100.0), host=Host())
    (wait_s,) = (one.wait_s for one in result.answered if one.request.model_id == "u")
    assert wait_s <= 60.0 + 10.0 + A.stop_s + 2.0 + small.load_s + 1


def test_models_that_fit_only_one_by_one_do_not_throw_each_other_out_after_every_answer() -> None:
    small = Model(model_id="u", lifecycle=UTILITY, load_s=60.0, peak_bytes=60 * GIB)
    lines = (Line(requests=(Request(model_id=name),) * 100, think_s=0.2) for name in ("A", "u"))
    result = play((A, small), *lines, host=Host())
    assert result.count.loads * 5 <= 200


def test_two_models_asked_for_at_once_are_not_promised_the_same_memory() -> None:
    small = Model(model_id="u", lifecycle=UTILITY, load_s=60.0, peak_bytes=60 * GIB)
    result = play((A, small), arrival("A", 0.0), arrival("u", 0.0), host=Host())
    assert len(result.answered) == 2


def test_room_made_for_one_start_is_not_taken_by_another() -> None:
    """`n` comes while room is made for `u`, whose memory is neither taken nor free then."""
    models = tuple(
        Model(model_id=name, lifecycle=kind, load_s=5.0, stop_s=10.0, peak_bytes=size * GIB)
        for name, kind, size in [
            ("z", UTILITY, 20),
            ("v", UTILITY, 60),
            ("u", UTILITY, 50),
            ("n", NORMAL, 40),
        ]
    )
    lines = (arrival("z", 0.0), arrival("v", 50.0), arrival("u", 200.0), arrival("n", 203.0))
    result = play(models, *lines, host=Host())
    assert len(result.answered) == 4
    assert result.count.evictions == 2


def test_memory_that_comes_back_late_after_an_idle_stop_refuses_nobody() -> None:
    idle_stop_s = 60.0 + 5.0 + 30.0
    result = play(
        (A, B),
        arrival("A", 0.0),
        arrival("B", idle_stop_s + A.stop_s + 0.1),
        host=Host(recovery_s=15.0),
        rules=Rules(idle_timeout_s=30.0),
    )
    assert result.count.idle_stops == 2
    assert waits_s(result)[1] <= 15.0 + 1.0 + B.load_s


def test_memory_of_other_programs_is_waited_for_a_little_and_then_the_refusal() -> None:
    host = Host(others=((0.0, 1e6, 60 * GIB),))
    result = play((A,), arrival("A", 10.0), host=host)
    (one,) = result.asked
    assert result.refused == {"insufficient_memory": 1}
    assert 20.0 <= one.ended_s - one.at_s <= 21.0


def test_model_larger_than_the_host_is_refused_at_once() -> None:
    result = play((replace(A, peak_bytes=125 * GIB),), arrival("A", 10.0), host=Host())
    assert result.refused == {"model_too_large": 1}
    assert result.asked[0].ended_s == 10.0


# Clients that leave, loads that fail, daemons that die, configurations that change.


def test_clients_who_leave_the_queue_leave_no_load_behind() -> None:
    leaving = (arrival("B", 70.0 + n / 10, patience_s=5.0) for n in range(100))
    result = play((A, B), arrival("A", 0.0, service_s=200.0), *leaving)
    assert result.left == 100
    assert result.count.loads == 1


def test_load_without_waiters_goes_on_and_then_idles_as_any_other() -> None:
    result = play((A,), arrival("A", 0.0, patience_s=30.0))
    assert (result.count.loads, result.count.taken_back) == (1, 0)
    assert result.count.idle_stops == 1


def test_load_without_waiters_is_taken_back_where_the_rules_say_so() -> None:
    old = Rules(finish_abandoned_loads=False)
    result = play((A,), arrival("A", 0.0, patience_s=30.0), rules=old)
    assert (result.count.loads, result.count.taken_back) == (0, 1)
    assert result.count.idle_stops == 0


def test_clients_with_less_patience_than_a_load_are_answered_by_one_load() -> None:
    tries = (arrival("A", 25.0 * number, patience_s=20.0) for number in range(5))
    result = play((replace(A, load_s=90.0),), *tries)
    assert result.count.loads == 1
    assert [one.end for one in result.asked] == [End.LEFT] * 3 + [End.ANSWERED] * 2


def test_load_without_waiters_is_in_no_other_models_way() -> None:
    slow = replace(A, load_s=600.0)
    result = play((slow, B), arrival("A", 0.0, patience_s=10.0), arrival("B", 50.0))
    assert (result.count.loads, result.count.evictions) == (1, 1)
    assert result.asked[1].wait_s < 120.0


def test_impatient_clients_of_two_models_are_both_answered() -> None:
    slow = (replace(A, load_s=90.0), replace(B, load_s=90.0))
    tries = [(n, 25.0 * number + 12.0 * k) for number in range(60) for k, n in enumerate("AB")]
    asked = [arrival(name, at_s, patience_s=20.0) for name, at_s in tries]
    result = play(slow, *asked)
    for name in "AB":
        answered = [one for one in result.answered if one.request.model_id == name]
        assert answered
        assert min(one.at_s for one in answered) < 600.0


def test_failing_model_is_tried_five_times_in_half_an_hour_and_is_in_nobodys_way() -> None:
    broken = replace(B, failing=frozenset(range(1, 100)))
    asking = (arrival("B", 10.0 * n) for n in range(360))
    result = play((A, broken), *asking, *(arrival("A", 200.0 * n) for n in range(18)))
    assert result.count.failed_loads == 5
    assert result.refused == {"start_crashed": 360}
    assert len(result.answered) == 18
    assert not result.starved()


def test_load_of_a_killed_daemon_keeps_no_other_model_waiting() -> None:
    slow = replace(A, load_s=600.0)
    result = play((slow, B), arrival("A", 0.0), arrival("B", 50.0), kills=(40.0,))
    first, second = result.asked
    assert first.error
    assert second.wait_s <= slow.stop_s + B.load_s + 1


def test_load_of_a_killed_daemon_goes_on_for_who_asks_again() -> None:
    result = play((A,), arrival("A", 0.0), arrival("A", 50.0), kills=(40.0,))
    assert result.count.loads == 1
    assert result.asked[1].wait_s == 10.0


def test_load_of_a_killed_daemon_is_completed_by_the_next_one() -> None:
    result = play((A,), arrival("A", 0.0), kills=(40.0,))
    assert (result.count.loads, result.count.idle_stops) == (1, 1)


def test_load_of_a_killed_daemon_that_nobody_wants_is_ended_by_its_timer() -> None:
    old = Rules(finish_abandoned_loads=False)
    result = play((A,), arrival("A", 0.0), kills=(40.0,), rules=old)
    assert (result.count.loads, result.count.evictions) == (0, 0)


def test_model_whose_configuration_changed_is_replaced_once_idle_and_not_before() -> None:
    result = play(
        (A,),
        arrival("A", 0.0, service_s=100.0),
        arrival("A", 90.0),
        arrival("A", 200.0),
        reloads=((80.0, "A"),),
    )
    assert waits_s(result) == [60.0, 0.0, A.stop_s + A.load_s]
    assert result.count.loads == 2


def test_changed_model_in_constant_use_starves_no_other() -> None:
    kept = (
        Line(requests=(Request(model_id="A", service_s=service_s),) * 200)
        for service_s in (10.0, 11.0, 13.0)
    )
    result = play((A, B), *kept, arrival("B", 100.0), reloads=((80.0, "A"),))
    (wait_s,) = (one.wait_s for one in result.answered if one.request.model_id == "B")
    assert wait_s <= 60.0 + 13.0 + A.stop_s + B.load_s + 1


def test_full_queue_refuses_and_serves_those_who_wait() -> None:
    result = play((A,), *(arrival("A", 1.0) for _ in range(10)), rules=Rules(queue_limit=4))
    assert result.refused == {"queue_full": 6}
    assert len(result.answered) == 4


def test_who_waits_longer_than_he_may_is_told_so() -> None:
    result = play((A,), arrival("A", 0.0), rules=Rules(queue_timeout_s=20.0))
    assert result.refused == {"queue_timeout": 1}


# The report.


def test_thousands_of_random_requests_all_end_and_nobody_starves() -> None:
    workload = traces.random_arrivals()
    result = simulator.run(workload)
    assert result.left_over == 0
    assert not result.refused
    assert len(result.answered) + result.left == workload.requests
    assert not result.starved()
    in_order = optimum.loads_in_order(workload)
    assert in_order is not None
    assert result.count.loads * 5 <= in_order


def test_results_in_the_documentation_are_those_of_the_simulator() -> None:
    written = DOCUMENT.read_text().splitlines()
    told = [*report.of_traces(traces.named()), *report.of_residency()]
    missing = [line for line in told if line not in written]
    assert missing == []
