# SPDX-License-Identifier: Apache-2.0
"""Each rule of the policy's tree, one situation at a time; tests/simulation has them together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.errors import GpuHeld, StartCrashed
from sparkd.core.model import Lifecycle
from sparkd.core.observed import LockHolder
from sparkd.core.scheduling.memory import Basis, HostMemory, Need
from sparkd.core.scheduling.policy import (
    Decision,
    Phase,
    PolicyInput,
    RecentFailure,
    Refuse,
    Resident,
    Start,
    Use,
    Wait,
    Waiting,
    decide,
    exclude_each_other,
    excluding_program,
)

NOW = 1000.0
LONG_AGO = 0.0
UTILITY, NORMAL, EXCLUSIVE = Lifecycle
HOST = HostMemory(total_bytes=100, available_bytes=100, reserve_bytes=10)


def resident(model_id: str, **fields: Any) -> Resident:
    """An idle model that has been ready for long."""
    return Resident(
        model_id=model_id,
        lifecycle=fields.pop("lifecycle", NORMAL),
        phase=fields.pop("phase", Phase.READY),
        in_use=fields.pop("in_use", False),
        **fields,
    )


def waiting(
    model_id: str, *, since: float = NOW, peak: int | None = None, **fields: Any
) -> Waiting:
    """Somebody who has just come for a model, whose peak is checked if it is given."""
    need = None if peak is None else Need(peak_bytes=peak, basis=Basis.MEASURED)
    lifecycle = fields.pop("lifecycle", NORMAL)
    return Waiting(model_id=model_id, lifecycle=lifecycle, since=since, need=need, **fields)


def inputs(*queue: Waiting, residents: tuple[Resident, ...] = (), **fields: Any) -> PolicyInput:
    return PolicyInput(
        now=NOW, queue=queue, residents=residents, min_residency_s=30, max_wait_s=60, **fields
    )


def decision(
    of: PolicyInput, model_id: str = "a", moving: frozenset[str] = frozenset()
) -> Decision:
    return decide(of, moving)[model_id]


# Rule 1: it is resident: use it, or wait for it to be gone.


@pytest.mark.parametrize("phase", [Phase.READY, Phase.STARTING, Phase.ABANDONED])
def test_resident_model_is_used(phase: Phase) -> None:
    assert decision(inputs(waiting("a"), residents=(resident("a", phase=phase),))) == Use()


def test_resident_with_another_configuration_is_used_while_others_use_it() -> None:
    outdated = resident("a", current=False, in_use=True)
    assert decision(inputs(waiting("a"), residents=(outdated,))) == Use()


def test_idle_resident_with_another_configuration_is_replaced_at_once() -> None:
    outdated = resident("a", current=False, ready_at=NOW)
    assert decision(inputs(waiting("a"), residents=(outdated,))) == Start(("a",))


def test_model_that_is_being_stopped_is_waited_for() -> None:
    leaving = resident("a", phase=Phase.LEAVING)
    assert decision(inputs(waiting("a"), residents=(leaving,))) == Wait(
        "it is being stopped", ("a",)
    )


def test_model_that_has_to_go_for_an_earlier_request_takes_no_new_one() -> None:
    queue = (waiting("b", since=NOW - 5), waiting("a"))
    decisions = decide(inputs(*queue, residents=(resident("a"),)))
    assert decisions == {"b": Start(("a",)), "a": Wait("it is being stopped", ("a",))}


# Rule 2: its start failed lately.


def test_failed_start_is_repeated_to_clients_until_its_back_off_ends() -> None:
    error = StartCrashed("it crashed")
    for until, expected in [(NOW + 1, Refuse(error)), (NOW, Start())]:
        recent_failures = {"a": RecentFailure(until=until, error=error)}
        assert decision(inputs(waiting("a"), recent_failures=recent_failures)) == expected


def test_failed_start_does_not_keep_from_an_instance_that_runs() -> None:
    recent_failures = {"a": RecentFailure(until=NOW + 1, error=StartCrashed("it crashed"))}
    of = inputs(waiting("a"), residents=(resident("a"),), recent_failures=recent_failures)
    assert decision(of) == Use()


# Rule 3: a program of others holds the GPU.


@pytest.mark.parametrize(
    ("exclusive", "lifecycle", "refused"),
    [
        (True, UTILITY, True),
        (True, NORMAL, True),
        (True, EXCLUSIVE, True),
        (False, UTILITY, False),
        (False, NORMAL, False),
        (False, EXCLUSIVE, True),
    ],
)
def test_program_of_others_is_named_when_it_excludes_the_model(
    exclusive: bool, lifecycle: Lifecycle, refused: bool
) -> None:
    holder = LockHolder(pid=42, command="python train.py", exclusive=exclusive)
    decided = decision(inputs(waiting("a", lifecycle=lifecycle), holders=(holder,)))
    if not refused:
        assert decided == Start()
        return
    assert isinstance(decided, Refuse)
    assert isinstance(decided.error, GpuHeld)
    assert "pid 42, 'python train.py'" in decided.error.message
    assert decided.error.retry_after_s


def test_our_own_models_are_no_program_of_others() -> None:
    own = LockHolder(pid=42, command="vllm", exclusive=True, model_id="b")
    other = LockHolder(pid=43, command="train", exclusive=True)
    assert excluding_program([own], NORMAL) is None
    assert excluding_program([own, other], NORMAL) is other


# Rule 4: it is larger than the host.


def test_model_that_can_never_fit_is_refused_with_the_arithmetic() -> None:
    decided = decision(inputs(waiting("a", peak=91), host=HOST))
    assert isinstance(decided, Refuse)
    assert decided.error.code == "model_too_large"
    assert decision(inputs(waiting("a", peak=90), host=HOST)) == Start()


def test_refused_model_is_in_nobodys_way() -> None:
    queue = (waiting("big", since=NOW - 9, peak=91), waiting("a"))
    assert decision(inputs(*queue, host=HOST)) == Start()


# Rule 5: those who come first.


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        (NORMAL, NORMAL, True),
        (NORMAL, EXCLUSIVE, True),
        (EXCLUSIVE, UTILITY, True),
        (NORMAL, UTILITY, False),
        (UTILITY, NORMAL, False),
        (UTILITY, UTILITY, False),
    ],
)
def test_later_model_waits_behind_an_earlier_one_that_excludes_it(
    first: Lifecycle, second: Lifecycle, waits: bool
) -> None:
    queue = (waiting("a", lifecycle=second), waiting("b", lifecycle=first, since=NOW - 1))
    expected = Wait("b is next", ("b",)) if waits else Start()
    assert decide(inputs(*queue)) == {"b": Start(), "a": expected}


def test_model_that_is_brought_up_already_comes_before_older_requests() -> None:
    queue = (waiting("b", since=NOW - 50), waiting("a"))
    decisions = decide(inputs(*queue), moving=frozenset({"a"}))
    assert list(decisions.items()) == [("a", Use()), ("b", Wait("a is next", ("a",)))]


def test_residents_in_the_way_of_a_model_that_is_brought_up_take_no_new_request() -> None:
    queue = (waiting("b", since=NOW - 50), waiting("a"))
    decisions = decide(inputs(*queue, residents=(resident("b"),)), moving=frozenset({"a"}))
    assert decisions["b"] == Wait("it is being stopped", ("b",))


def test_models_of_the_same_age_come_in_the_order_of_their_names() -> None:
    assert list(decide(inputs(waiting("b"), waiting("a")))) == ["a", "b"]


# Rule 6: residents that exclude it.


@pytest.mark.parametrize(
    ("one", "other", "exclude"),
    [
        (UTILITY, UTILITY, False),
        (UTILITY, NORMAL, False),
        (NORMAL, NORMAL, True),
        (EXCLUSIVE, UTILITY, True),
        (EXCLUSIVE, NORMAL, True),
        (EXCLUSIVE, EXCLUSIVE, True),
    ],
)
def test_lifecycles_exclude_each_other_both_ways(
    one: Lifecycle, other: Lifecycle, exclude: bool
) -> None:
    assert exclude_each_other(one, other) is exclude
    assert exclude_each_other(other, one) is exclude


def test_idle_resident_makes_room() -> None:
    residents = (resident("b"), resident("u", lifecycle=UTILITY))
    assert decision(inputs(waiting("a"), residents=residents)) == Start(("b",))
    exclusive = waiting("a", lifecycle=EXCLUSIVE)
    assert decision(inputs(exclusive, residents=residents)) == Start(("b", "u"))


# Rule 6a: one of them is being started or stopped.


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.LEAVING])
def test_resident_on_the_move_is_waited_for_however_long_it_takes(phase: Phase) -> None:
    of = inputs(waiting("a", since=LONG_AGO), residents=(resident("b", phase=phase),))
    assert decision(of) == Wait("b is starting or stopping", ("b",))


def test_load_that_was_abandoned_is_stopped_at_once() -> None:
    abandoned = resident("b", phase=Phase.ABANDONED, ready_at=NOW)
    assert decision(inputs(waiting("a"), residents=(abandoned,))) == Start(("b",))


# Rule 6b: minimum residency.


@pytest.mark.parametrize("since", [NOW, LONG_AGO])
@pytest.mark.parametrize("in_use", [False, True])
def test_resident_that_has_only_just_become_ready_stays_for_a_while(
    since: float, in_use: bool
) -> None:
    fresh = resident("b", ready_at=NOW - 29, in_use=in_use)
    of = inputs(waiting("a", since=since), residents=(fresh,))
    assert decision(of) == Wait("b has only just become ready", ("b",), NOW + 1)
    settled = replace(fresh, ready_at=NOW - 30, in_use=False)
    assert decision(replace(of, residents=(settled,))) == Start(("b",))


def test_residency_is_never_longer_than_the_longest_wait() -> None:
    of = inputs(waiting("a"), residents=(resident("b", ready_at=NOW - 5),))
    assert decision(replace(of, max_wait_s=5)) == Start(("b",))


def test_resident_whose_configuration_changed_has_no_right_to_stay() -> None:
    outdated = resident("b", ready_at=NOW, current=False)
    assert decision(inputs(waiting("a"), residents=(outdated,))) == Start(("b",))


# Rule 6c: aging.


def test_busy_resident_is_waited_for_until_the_oldest_waiter_has_waited_enough() -> None:
    busy = (resident("b", in_use=True),)
    assert decision(inputs(waiting("a", since=NOW - 59), residents=busy)) == Wait(
        "b is in use", ("b",), NOW + 1
    )
    assert decision(inputs(waiting("a", since=NOW - 60), residents=busy)) == Start(("b",))


# Rule 7: memory.


def test_memory_that_is_not_known_is_not_checked() -> None:
    assert decision(inputs(waiting("a", peak=10_000))) == Start()
    assert decision(inputs(waiting("a"), host=replace(HOST, available_bytes=0))) == Start()


# Rule 7a: further residents have to go.


def test_idle_residents_go_for_memory_the_least_recently_used_first() -> None:
    residents = tuple(
        resident(name, lifecycle=UTILITY, held_bytes=20, last_used_at=at)
        for name, at in [("x", 30.0), ("y", 10.0), ("z", 20.0)]
    )
    tight = replace(HOST, available_bytes=40)
    for peak, evicted in [(30, ()), (31, ("y",)), (51, ("y", "z")), (71, ("x", "y", "z"))]:
        of = inputs(waiting("a", peak=peak), residents=residents, host=tight)
        assert decision(of) == Start(evicted)


def test_resident_in_use_is_the_last_to_go_for_memory_and_is_waited_for() -> None:
    idle = resident("x", lifecycle=UTILITY, held_bytes=20, last_used_at=NOW)
    busy = resident("y", lifecycle=UTILITY, held_bytes=20, last_used_at=1, in_use=True)
    tight = replace(HOST, available_bytes=40)
    of = inputs(waiting("a", peak=40), residents=(idle, busy), host=tight)
    assert decision(of) == Start(("x",))
    both = replace(of, queue=(waiting("a", peak=60, since=NOW - 59),))
    assert decision(both) == Wait("y is in use", ("y",), NOW + 1)
    aged = replace(of, queue=(waiting("a", peak=60, since=NOW - 60),))
    assert decision(aged) == Start(("x", "y"))


def test_resident_of_unknown_size_is_given_the_benefit_of_the_doubt() -> None:
    of = inputs(
        waiting("a", peak=80),
        residents=(resident("b", held_bytes=None),),
        host=replace(HOST, available_bytes=20),
    )
    assert decision(of) == Start(("b",))


def test_resident_that_goes_for_memory_has_its_minimum_residency() -> None:
    fresh = resident("u", lifecycle=UTILITY, held_bytes=50, ready_at=NOW - 29)
    of = inputs(waiting("a", peak=60), residents=(fresh,), host=replace(HOST, available_bytes=50))
    assert decision(of) == Wait("u has only just become ready", ("u",), NOW + 1)
    assert decision(replace(of, now=NOW + 1)) == Start(("u",))


def test_resident_that_an_earlier_request_is_about_to_use_does_not_go_for_memory() -> None:
    queue = (waiting("u", lifecycle=UTILITY, since=NOW - 1), waiting("a", peak=60))
    wanted = resident("u", lifecycle=UTILITY, held_bytes=50)
    of = inputs(*queue, residents=(wanted,), host=replace(HOST, available_bytes=50))
    assert decide(of) == {"u": Use(), "a": Wait("memory is short", ("u",))}


# Rule 7b: others load, leave or come first.


def test_resident_of_unknown_size_has_no_more_than_all_that_others_are_not_known_to_have() -> None:
    unknown = resident("x", lifecycle=UTILITY, last_used_at=1.0)
    known = resident("y", lifecycle=UTILITY, held_bytes=60, last_used_at=2.0)
    full = replace(HOST, available_bytes=0)
    for peak, evicted in [(30, ("x",)), (31, ("x", "y"))]:
        of = inputs(waiting("a", peak=peak), residents=(unknown, known), host=full)
        assert decision(of) == Start(evicted)


def test_memory_that_a_load_has_not_taken_yet_is_not_given_away() -> None:
    loading = resident("u", lifecycle=UTILITY, phase=Phase.STARTING, held_bytes=50)
    of = inputs(waiting("a", peak=50), residents=(loading,), host=HOST)
    assert decision(of) == Wait("memory is short", ("u",))
    assert decision(replace(of, queue=(waiting("a", peak=40),))) == Start()


def test_memory_that_an_earlier_request_needs_is_not_given_away() -> None:
    queue = (
        waiting("b", peak=50, since=NOW - 1),
        waiting("u", peak=50, lifecycle=UTILITY),
    )
    decisions = decide(inputs(*queue, host=HOST))
    assert decisions == {"b": Start(), "u": Wait("memory is short", ("b",))}


def test_earlier_request_of_unknown_need_reserves_nothing() -> None:
    queue = (waiting("b", since=NOW - 1), waiting("u", peak=90, lifecycle=UTILITY))
    assert decide(inputs(*queue, host=HOST)) == {"b": Start(), "u": Start()}


def test_place_of_the_main_model_is_counted_once() -> None:
    """The main model that comes takes the memory of the one that goes, not more beside it."""
    queue = (
        waiting("b", peak=50, since=NOW - 1),
        waiting("u", peak=40, lifecycle=UTILITY),
    )
    old = resident("a", held_bytes=50)
    of = inputs(*queue, residents=(old,), host=replace(HOST, available_bytes=50))
    assert decide(of) == {"b": Start(("a",)), "u": Start()}


def test_main_models_that_come_first_need_the_memory_of_the_largest_of_them() -> None:
    queue = (
        waiting("b", peak=50, since=NOW - 2),
        waiting("c", peak=60, since=NOW - 1),
        waiting("u", peak=30, lifecycle=UTILITY),
    )
    assert decide(inputs(*queue, host=HOST))["u"] == Start()
    larger = replace(queue[2], need=Need(peak_bytes=31, basis=Basis.MEASURED))
    assert decide(inputs(*queue[:2], larger, host=HOST))["u"] == Wait("memory is short", ("b", "c"))


# Sleepers.


def test_sleeper_is_in_nobodys_way_but_an_exclusive_models() -> None:
    sleeper = resident("a", phase=Phase.ASLEEP, ready_at=NOW)
    assert decision(inputs(waiting("b"), residents=(sleeper,)), "b") == Start()
    alone = inputs(waiting("x", lifecycle=EXCLUSIVE), residents=(sleeper,))
    assert decision(alone, "x") == Start(("a",))


def test_sleeper_that_is_wanted_needs_a_place_as_for_a_start() -> None:
    sleeper, other = resident("a", phase=Phase.ASLEEP), resident("b")
    assert decision(inputs(waiting("a"), residents=(sleeper,))) == Start()
    assert decision(inputs(waiting("a"), residents=(sleeper, other))) == Start(("b",))
    used = replace(other, in_use=True)
    assert isinstance(decision(inputs(waiting("a"), residents=(sleeper, used))), Wait)


def test_sleeper_that_is_configured_otherwise_now_is_stopped_first() -> None:
    sleeper = resident("a", phase=Phase.ASLEEP, current=False)
    assert decision(inputs(waiting("a"), residents=(sleeper,))) == Start(("a",))


def test_who_may_sleep_sleeps_for_another_model_and_is_stopped_for_an_exclusive_one() -> None:
    sleepy = resident("a", may_sleep=True)
    assert decision(inputs(waiting("b"), residents=(sleepy,)), "b") == Start(("a",), frozenset("a"))
    exclusive = waiting("x", lifecycle=EXCLUSIVE)
    assert decision(inputs(exclusive, residents=(sleepy,)), "x") == Start(("a",))


def test_memory_is_made_by_stopping_sleepers_first() -> None:
    sleeper = resident("a", phase=Phase.ASLEEP, last_used_at=NOW)
    util = resident("u", lifecycle=UTILITY, held_bytes=40, last_used_at=NOW - 100)
    full = replace(HOST, available_bytes=20)
    of = inputs(waiting("b", peak=50), residents=(sleeper, util), host=full)
    assert decision(of, "b") == Start(("a",))


def test_who_has_to_go_for_memory_does_not_sleep() -> None:
    sleepy = resident("a", may_sleep=True, held_bytes=40)
    util = resident("u", lifecycle=UTILITY, held_bytes=20)
    full = replace(HOST, available_bytes=10)
    of = inputs(waiting("b", peak=60), residents=(sleepy, util), host=full)
    assert decision(of, "b") == Start(("a", "u"))


# Rule 7c: something else has the memory.


def test_memory_that_nobody_known_has_may_come_back_for_a_while_and_is_then_refused() -> None:
    full = replace(HOST, available_bytes=20)
    for short_since, until in [(NOW, NOW + 1), (NOW - 19.5, NOW + 0.5)]:
        of = inputs(waiting("a", peak=50, since=LONG_AGO, short_since=short_since), host=full)
        assert decision(of) == Wait("memory is short", (), until, short=True)
    decided = decision(inputs(waiting("a", peak=50, short_since=NOW - 20), host=full))
    assert isinstance(decided, Refuse)
    assert decided.error.code == "insufficient_memory"


def test_who_does_not_say_since_when_memory_is_short_has_missed_it_since_he_came() -> None:
    full = replace(HOST, available_bytes=20)
    assert decision(inputs(waiting("a", peak=50, since=NOW - 19), host=full)) == Wait(
        "memory is short", (), NOW + 1, short=True
    )
    late = decision(inputs(waiting("a", peak=50, since=NOW - 20), host=full))
    assert isinstance(late, Refuse)


def test_idle_residents_stay_when_even_all_of_them_would_not_do() -> None:
    useless = resident("x", lifecycle=UTILITY, held_bytes=1)
    full = replace(HOST, available_bytes=20)
    of = inputs(waiting("a", peak=50, short_since=NOW), residents=(useless,), host=full)
    assert decision(of) == Wait("memory is short", ("x",), NOW + 1, short=True)
    late = replace(of, queue=(waiting("a", peak=50, short_since=NOW - 20),))
    assert isinstance(decision(late), Refuse)


# Rule 8, and all of them.


def test_nothing_in_the_way_is_a_start() -> None:
    assert decision(inputs(waiting("a"))) == Start()


def test_nobody_who_waits_is_nothing_to_decide() -> None:
    assert decide(inputs(residents=(resident("a"),))) == {}


names = st.sampled_from("abcd")
lifecycles = dict(zip("abcd", (NORMAL, NORMAL, UTILITY, EXCLUSIVE), strict=True))
policy_inputs = st.builds(
    lambda residents, queue: inputs(
        *(waiting(name, since=since, lifecycle=lifecycles[name]) for name, since in queue.items()),
        residents=tuple(
            resident(name, phase=phase, in_use=in_use, lifecycle=lifecycles[name], ready_at=at)
            for name, (phase, in_use, at) in residents.items()
        ),
    ),
    st.dictionaries(
        names, st.tuples(st.sampled_from(Phase), st.booleans(), st.sampled_from([0.0, NOW]))
    ),
    st.dictionaries(names, st.sampled_from([NOW, NOW - 10, NOW - 100])),
)


@given(policy_inputs)
def test_everybody_gets_a_decision_and_no_two_of_them_contradict(of: PolicyInput) -> None:
    decisions = decide(of)
    assert set(decisions) == {waiting.model_id for waiting in of.queue}
    started = {name: d for name, d in decisions.items() if isinstance(d, Start)}
    used = {name for name, d in decisions.items() if isinstance(d, Use)}
    for name, start in started.items():
        assert not set(start.evict) & (used | set(started) - {name})
        assert start.sleep <= set(start.evict)
        awake = {r.model_id for r in of.residents if r.phase is not Phase.ASLEEP}
        resident = {r.model_id for r in of.residents}
        rest = (resident if lifecycles[name] is EXCLUSIVE else awake) - set(start.evict)
        for other in (rest | set(started)) - {name}:
            assert not exclude_each_other(lifecycles[name], lifecycles[other])


@given(policy_inputs)
def test_who_waits_knows_for_what(of: PolicyInput) -> None:
    for decided in decide(of).values():
        if isinstance(decided, Wait):
            assert decided.why
            assert decided.blockers or decided.until is not None
            assert decided.until is None or decided.until > of.now


def test_load_that_follows_one_that_was_cut_short_is_waited_for() -> None:
    unattended = resident("b", phase=Phase.ABANDONED)
    asked = inputs(waiting("a"), residents=(unattended,))
    assert decision(asked) == Start(("b",))
    again = inputs(waiting("a"), residents=(replace(unattended, cut_short=True),))
    assert decision(again) == Wait("b is starting or stopping", ("b",))
    ready = inputs(waiting("a"), residents=(resident("b", cut_short=True),))
    assert decision(ready) == Start(("b",))
