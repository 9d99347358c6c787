# SPDX-License-Identifier: Apache-2.0
"""The locks of models by name, and their order. The only module that opens lock files.

    start                one process at a time decides about a start and makes room for it
    X.transition   EX    X is being started, stopped or drained
                   SH    held for the instant in which a use lease is taken
    X.activity     SH    X is in use, one descriptor a request
                   EX    X is being stopped: no request uses it or may begin to
                   mtime when a use last began or ended, on the monotonic clock
    PATH.pull      EX    a fetch to that path is running; held alone, and only tried

Order: a model's own transition, then for each model to be evicted, by name, its transition and its
activity, then start. No circle of waits exists: a model that is being started holds only its own
transition while it waits for those of running ones, and running ones wait for none. Taking EX
where one holds SH is not atomic; the locks are released and taken again, and the host is looked at
again.
Every lock dies with its process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from sparkd.adapters.flock import FileLock, Mode
from sparkd.adapters.proc.processes import LockTable
from sparkd.core.errors import Busy
from sparkd.core.names import Layout, Names

_CLOCK_SLACK_S = 60.0
"""More than rounding of file times, and less than any wall clock is ahead of the monotonic one."""


class UseLease:
    """The right to use a running model until `close`; no process stops it meanwhile."""

    __slots__ = ("_lock",)

    def __init__(self, lock: FileLock) -> None:
        self._lock: FileLock | None = lock

    def close(self) -> None:
        """End the use and record its time; a second call has no effect."""
        if self._lock is not None:
            self._lock.touch()
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class ExclusiveHold:
    """Both locks of a model, exclusively: it may be stopped. Always close it."""

    transition: FileLock
    activity: FileLock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.activity.close()
        self.transition.close()


@dataclass(frozen=True, slots=True)
class Leases:
    layout: Layout
    _paths: dict[str, tuple[str, str]] = field(default_factory=dict, init=False, compare=False)
    """Transition and activity of each model as text: every request opens both."""

    def try_use(self, names: Names) -> UseLease | None:
        """A use lease, or None while the model is being started, stopped or drained."""
        transition_path, _ = self._paths_of(names)
        transition = FileLock.try_take(transition_path, Mode.SHARED)
        if transition is None:
            return None
        with transition:
            return self._use(names)

    def use_in_transition(self, names: Names) -> UseLease:
        """A use lease. Call with `transition(names)` held: then it cannot be refused."""
        lease = self._use(names)
        if lease is None:
            raise RuntimeError(f"activity of {names.model_id} is held against its transition")
        return lease

    async def transition(self, names: Names) -> FileLock:
        """Wait for the right to start, stop or drain the model."""
        return await FileLock.take(self.layout.transition_lock(names), Mode.EXCLUSIVE)

    async def start(self) -> FileLock:
        """Wait for the right to decide about a start and make room for it."""
        return await FileLock.take(self.layout.start_lock, Mode.EXCLUSIVE)

    def try_stop(self, names: Names) -> ExclusiveHold | None:
        """The right to stop the model, or None when it is in use or in transition."""
        transition = FileLock.try_take(self.layout.transition_lock(names), Mode.EXCLUSIVE)
        if transition is None:
            return None
        activity = self.try_drained(names)
        if activity is None:
            transition.close()
            return None
        return ExclusiveHold(transition, activity)

    async def drain(self, names: Names) -> ExclusiveHold:
        """Let no new use begin, wait until the open ones have ended, and hold both locks."""
        transition = await self.transition(names)
        try:
            return ExclusiveHold(transition, await self.drained(names))
        except BaseException:
            transition.close()
            raise

    def try_drained(self, names: Names) -> FileLock | None:
        """EX on activity, or None while a request uses the model.

        Call with `transition(names)` held, else a new use may begin right after.
        """
        return FileLock.try_take(self.layout.activity_lock(names), Mode.EXCLUSIVE)

    async def drained(self, names: Names) -> FileLock:
        """Wait until no request uses the model. Call with `transition(names)` held."""
        return await FileLock.take(self.layout.activity_lock(names), Mode.EXCLUSIVE)

    def pull(self, destination: Path) -> FileLock:
        """The right to fetch to a path. Raises Busy when another process does."""
        lock = FileLock.try_take(self.layout.pull_lock(destination), Mode.EXCLUSIVE)
        if lock is None:
            raise Busy(
                f"another sparkctl pull fetches {destination}",
                hint="wait for it: a pull of complete files ends at once",
                code="pull_in_progress",
            )
        return lock

    def activity_of(self, models: Iterable[str]) -> tuple[tuple[bool, bool], ...]:
        """Whether each model is in use and in transition; takes no lock.

        Equal results mean that nothing changed; comparing them is cheaper than a snapshot.
        """
        table = LockTable.read()
        return tuple(
            (
                table.held(self.layout.activity_lock(Names(model)), shared_only=True),
                table.held(self.layout.transition_lock(Names(model)), exclusive_only=True),
            )
            for model in models
        )

    def others_move(self, names: Names) -> bool:
        """Whether any process is starting, stopping or draining another model now."""
        table = LockTable.read()
        own = self.layout.transition_lock(names)
        return any(
            path != own and table.held(path, exclusive_only=True)
            for path in self.layout.locks_dir.glob("*.transition")
        )

    def touch(self, names: Names) -> None:
        """Record a use now, as the end of a start does: a fresh model is not idle."""
        with self.use_in_transition(names):
            pass

    def last_used_s(self, names: Names) -> float | None:
        """The time when a use last began or ended, on the monotonic clock; None before the first
        since boot.

        That clock does not jump when the host sets the time, and drives the idle
        timers.
        """
        try:
            used_s = self.layout.activity_lock(names).stat().st_mtime
        except FileNotFoundError:
            return None
        # A file that was created and never touched has the wall clock's time, which is far ahead.
        return used_s if used_s <= time.monotonic() + _CLOCK_SLACK_S else None

    def last_used_at(self, names: Names) -> float | None:
        """The time of `last_used_s` as wall time, by the current wall clock."""
        used_s = self.last_used_s(names)
        return None if used_s is None else round(time.time() - time.monotonic() + used_s, 3)

    def _use(self, names: Names) -> UseLease | None:
        _, activity_path = self._paths_of(names)
        activity = FileLock.try_take(activity_path, Mode.SHARED)
        if activity is None:
            return None
        activity.touch()
        return UseLease(activity)

    def _paths_of(self, names: Names) -> tuple[str, str]:
        paths = self._paths.get(names.model_id)
        if paths is None:
            layout = self.layout
            paths = str(layout.transition_lock(names)), str(layout.activity_lock(names))
            self._paths[names.model_id] = paths
        return paths
