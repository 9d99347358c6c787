# SPDX-License-Identifier: Apache-2.0
"""A clock that jumps from event to event, and tasks that wait on it: no asyncio, no sleeping.

A task is a generator; what it yields says what it waits for. Cancelling throws `Cancelled` into it
where it waits, as asyncio does; a task that is shielded gets it when the shield ends.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

EVENTS_AT_ONCE_MAX = 100_000


class Cancelled(Exception):
    """Thrown into a task that is to give up."""


@dataclass(frozen=True, slots=True)
class Until:
    """Wait until `holds`, or for `timeout_s` at most."""

    holds: Callable[[], bool]
    timeout_s: float = float("inf")


def pause(seconds: float) -> Until:
    return Until(lambda: False, seconds)


Steps = Generator[Until, None, None]


@dataclass(slots=True, eq=False)
class Task:
    steps: Steps
    waiting: Until | None = None
    deadline_s: float = float("inf")
    shielded: bool = False
    cancelled: bool = False
    done: bool = False


@dataclass(slots=True)
class Clock:
    """Runs events in the order of their times, and tasks as far as they get between them."""

    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _tasks: list[Task] = field(default_factory=list)
    on_step: Callable[[], None] = lambda: None
    """Called after every event, when all tasks wait again."""

    def at(self, when_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when_s, self.now), next(self._order), event))

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        self.at(self.now + delay_s, event)

    def start(self, steps: Steps) -> Task:
        """Begin a task with the next event, as `create_task` does."""
        task = Task(steps)
        self._tasks.append(task)
        self.after(0.0, lambda: None)
        return task

    def cancel(self, task: Task) -> None:
        task.cancelled = True
        self.after(0.0, lambda: None)

    def kill(self, task: Task) -> None:
        """End a task where it waits, as the death of its process does; locks are let go."""
        task.done = True
        task.steps.close()

    def run(self, limit_s: float) -> None:
        """Run until nothing is left to happen.

        Raises TimeoutError at `limit_s`, or when time stands still.
        """
        here = 0
        while self._events:
            when_s, _, event = heapq.heappop(self._events)
            if when_s > limit_s:
                raise TimeoutError(f"something still happens after {limit_s:g} s")
            here = here + 1 if when_s == self.now else 0
            if here > EVENTS_AT_ONCE_MAX:
                raise TimeoutError(f"time stands still at {when_s:g} s")
            self.now = when_s
            event()
            self._finalize_start()
            self.on_step()

    def _finalize_start(self) -> None:
        """Step every task that can go on, until none can."""
        while ready := [task for task in self._tasks if self._is_ready(task)]:
            for task in ready:
                if self._is_ready(task):
                    self._step(task)
            self._tasks = [task for task in self._tasks if not task.done]

    def _is_ready(self, task: Task) -> bool:
        if task.done:
            return False
        if task.waiting is None or (task.cancelled and not task.shielded):
            return True
        return task.waiting.holds() or self.now >= task.deadline_s

    def _step(self, task: Task) -> None:
        try:
            if task.cancelled and not task.shielded:
                task.cancelled = False
                task.waiting = task.steps.throw(Cancelled())
            else:
                task.waiting = next(task.steps)
        except (StopIteration, Cancelled):
            task.done = True
            return
        task.deadline_s = self.now + task.waiting.timeout_s
        if task.waiting.timeout_s < float("inf"):
            self.at(task.deadline_s, lambda: None)
