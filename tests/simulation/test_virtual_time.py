# SPDX-License-Identifier: Apache-2.0
"""The clock of the simulator itself."""

from __future__ import annotations

import pytest

from tests.simulation.virtual_time import Cancelled, Clock, Steps, Task, Until, pause


def test_events_happen_in_the_order_of_their_times_and_then_of_their_making() -> None:
    clock, seen = Clock(), list[tuple[float, str]]()
    for at_s, name in [(2.0, "c"), (1.0, "a"), (1.0, "b")]:
        clock.at(at_s, lambda name=name: seen.append((clock.now, name)))  # type: ignore[misc]
    clock.run(10.0)
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]


def test_task_goes_on_as_soon_as_what_it_waits_for_holds_and_at_its_time_at_the_latest() -> None:
    clock, seen, doors = Clock(), list[float](), set[str]()

    def steps() -> Steps:
        yield pause(3.0)
        seen.append(clock.now)
        yield Until(lambda: "open" in doors)
        seen.append(clock.now)
        yield Until(lambda: "never" in doors, timeout_s=2.0)
        seen.append(clock.now)

    clock.start(steps())
    clock.at(7.0, lambda: doors.add("open"))
    clock.run(100.0)
    assert seen == [3.0, 7.0, 9.0]


def test_cancelled_task_can_clean_up_in_its_own_time() -> None:
    clock, seen = Clock(), list[str]()

    def steps() -> Steps:
        try:
            yield pause(100.0)
        except Cancelled:
            yield pause(5.0)
            seen.append(f"clean at {clock.now:g}")
            raise

    task = clock.start(steps())
    clock.at(2.0, lambda: clock.cancel(task))
    clock.run(1000.0)
    assert seen == ["clean at 7"]
    assert task.done


def test_shielded_task_is_cancelled_when_its_shield_ends() -> None:
    clock, seen, tasks = Clock(), list[str](), list[Task]()

    def steps() -> Steps:
        tasks[0].shielded = True
        yield pause(10.0)
        tasks[0].shielded = False
        seen.append(f"whole at {clock.now:g}")
        yield pause(10.0)
        seen.append("not reached")

    tasks.append(clock.start(steps()))
    clock.at(2.0, lambda: clock.cancel(tasks[0]))
    clock.run(1000.0)
    assert seen == ["whole at 10"]


def test_killed_task_does_nothing_more_but_let_its_locks_go() -> None:
    clock, seen = Clock(), list[str]()

    def steps() -> Steps:
        try:
            yield pause(10.0)
            seen.append("not reached")
        except Cancelled:
            seen.append("not reached either")
        finally:
            seen.append("lock let go")

    task = clock.start(steps())
    clock.at(2.0, lambda: clock.kill(task))
    clock.run(1000.0)
    assert seen == ["lock let go"]


def test_what_never_ends_is_an_error() -> None:
    clock = Clock()

    def again() -> None:
        clock.after(1.0, again)

    clock.at(0.0, again)
    with pytest.raises(TimeoutError, match="after 50 s"):
        clock.run(50.0)
    session_stats = Clock()

    def at_once() -> None:
        session_stats.after(0.0, at_once)

    session_stats.at(3.0, at_once)
    with pytest.raises(TimeoutError, match="stands still at 3 s"):
        session_stats.run(50.0)
