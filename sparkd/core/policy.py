# SPDX-License-Identifier: Apache-2.0
"""Who runs next: a pure decision over one frozen view of the world and the queue.

`decide` gives every queued model one decision. It looks at the models in the order of their oldest
waiters, so the queue is first come, first served by model, and all who wait for one model are
served by one load. For each model, the first rule that applies:

1. It is resident as it is configured now, or as others still use it: use it. While it is being
   drained or stopped: wait.
2. Its start failed lately: refuse with that failure, until its back-off ends.
3. A program outside sparkd holds the GPU in a way that excludes it: refuse, and name the program.
4. It needs more memory than the host can ever give: refuse, with the arithmetic.
5. An older queued model that excludes it is not served yet: wait behind that one.
6. Residents exclude it (by lifecycle, or as its own outdated instance):
   a. one of them is being started or stopped: wait for that to end;
   b. one of them is in use: wait, until the oldest waiter has waited `max_wait`; from then on it is
      drained, so that a model in constant use does not starve the others;
   c. one of them became ready less than `min_residency` ago: wait for the rest of that time, or of
      `max_wait`: a load must serve somebody before it is thrown away.
7. Memory does not suffice beside what stays: idle residents go too, least recently used first; if
   that is not enough, wait while others are in use, else refuse.
8. Nothing is in the way: start it.

Residents are never stopped by this module for being idle; that is the timers' work (`reap`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sparkd.core import memory
from sparkd.core.errors import GpuHeld, SparkdError
from sparkd.core.model import Lifecycle, LockHolder


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    """Being drained or stopped: it takes no new requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model whose process runs."""

    model_id: str
    lifecycle: Lifecycle
    phase: Phase
    in_use: bool
    current: bool = True
    """Whether it runs as it is configured now."""
    ready_at: float = 0.0
    """When it became ready, or the best that is known of it."""
    last_used_at: float = 0.0
    held_bytes: int = 0
    """What stopping it is expected to give back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The waiters of one model that is not lent to them yet."""

    model_id: str
    lifecycle: Lifecycle
    since: float
    """When the oldest of them came."""
    count: int = 1
    need: memory.Need | None = None
    """None: its memory is not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """A model whose last start failed, and until when it is not tried again."""

    until: float
    error: SparkdError


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a decision depends on. Times are seconds on one clock."""

    now: float
    residents: tuple[Resident, ...] = ()
    queue: tuple[Waiting, ...] = ()
    holders: tuple[LockHolder, ...] = ()
    setbacks: Mapping[str, Setback] = field(default_factory=dict)
    host: memory.HostMemory | None = None
    """None: memory is not checked."""
    min_residency_s: float = 30.0
    max_wait_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Use:
    """It is resident: wait until it is healthy (it may already be) and lend it."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start it, after these were stopped; those in use are drained first."""

    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Decide again when the blockers change, at `until` at the latest."""

    why: str
    blockers: tuple[str, ...] = ()
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    error: SparkdError


Decision = Use | Start | Wait | Refuse


def decide(view: View, moving: frozenset[str] = frozenset()) -> dict[str, Decision]:
    """One decision for every model of the queue, in the order they were made.

    Models that are `moving` are being brought up already: they are to be used, and hold their
    place before younger ones.
    """
    decisions: dict[str, Decision] = {}
    unserved: list[Waiting] = []
    for waiting in sorted(view.queue, key=lambda w: (w.since, w.model_id)):
        underway = waiting.model_id in moving
        decision = Use() if underway else _decide_one(view, waiting, unserved)
        decisions[waiting.model_id] = decision
        if not isinstance(decision, Refuse):
            unserved.append(waiting)
    return decisions


def exclude_each_other(one: Lifecycle, other: Lifecycle) -> bool:
    """Whether two models cannot run at the same time; the lock modes say the same."""
    pair = {one, other}
    return Lifecycle.EXCLUSIVE in pair or pair == {Lifecycle.NORMAL}


def excluding_program(holders: Iterable[LockHolder], lifecycle: Lifecycle) -> LockHolder | None:
    """The first program outside sparkd whose hold on gpu.lock excludes this lifecycle."""
    for holder in holders:
        excludes = holder.exclusive or lifecycle is Lifecycle.EXCLUSIVE
        if holder.model_id is None and excludes:
            return holder
    return None


def gpu_held(model_id: str, holder: LockHolder) -> GpuHeld:
    """The refusal that names who holds the GPU."""
    return GpuHeld(
        f"model {model_id!r} cannot start: the GPU is held by pid {holder.pid}, {holder.command!r}",
        hint="wait until it ends, or stop it",
        retry_after_s=30,
    )


def _decide_one(view: View, waiting: Waiting, unserved: list[Waiting]) -> Decision:
    own = next((r for r in view.residents if r.model_id == waiting.model_id), None)
    if own is not None:  # 1
        if own.phase is Phase.LEAVING:
            return Wait("it is being stopped", (own.model_id,))
        if own.current or own.in_use:
            return Use()
    refusal = _refusal(view, waiting)  # 2, 3, 4
    if refusal is not None:
        return Refuse(refusal)
    for older in unserved:  # 5
        if exclude_each_other(older.lifecycle, waiting.lifecycle):
            return Wait(f"{older.model_id} is next", (older.model_id,))
    blockers = tuple(
        r for r in view.residents if r is own or exclude_each_other(r.lifecycle, waiting.lifecycle)
    )
    return _wait_for(view, waiting, blockers) or _with_memory(view, waiting, blockers)  # 6, 7, 8


def _refusal(view: View, waiting: Waiting) -> SparkdError | None:
    setback = view.setbacks.get(waiting.model_id)
    if setback is not None and view.now < setback.until:  # 2
        return setback.error
    foreign = excluding_program(view.holders, waiting.lifecycle)
    if foreign is not None:  # 3
        return gpu_held(waiting.model_id, foreign)
    if view.host is not None and waiting.need is not None:  # 4
        return memory.never_fits(waiting.model_id, waiting.need, view.host)
    return None


def _wait_for(view: View, waiting: Waiting, blockers: tuple[Resident, ...]) -> Wait | None:
    """Rule 6: the wait that the blockers ask for, or None when all may be stopped now."""
    moving = tuple(r.model_id for r in blockers if r.phase is not Phase.READY)
    if moving:  # a
        return Wait(f"{moving[0]} is on the move", moving)
    aged_at = waiting.since + view.max_wait_s
    if view.now >= aged_at:
        return None
    busy = tuple(r.model_id for r in blockers if r.in_use)
    if busy:  # b
        return Wait(f"{busy[0]} is in use", busy, aged_at)
    settled_at = max((r.ready_at + view.min_residency_s for r in blockers), default=view.now)
    if view.now < settled_at:  # c
        fresh = tuple(r.model_id for r in blockers if r.ready_at + view.min_residency_s > view.now)
        return Wait(f"{fresh[0]} has only just become ready", fresh, min(aged_at, settled_at))
    return None


def _with_memory(view: View, waiting: Waiting, blockers: tuple[Resident, ...]) -> Decision:
    """Rules 7 and 8."""
    evict = list(blockers)
    if view.host is not None and waiting.need is not None:
        rest = [r for r in view.residents if r not in blockers]
        idle = sorted(
            (r for r in rest if not r.in_use and r.phase is Phase.READY),
            key=lambda r: (r.last_used_at, r.model_id),
        )
        while not memory.fits(waiting.need, view.host, [r.held_bytes for r in evict]) and idle:
            evict.append(idle.pop(0))
        if not memory.fits(waiting.need, view.host, [r.held_bytes for r in evict]):
            staying = tuple(r.model_id for r in rest if r not in evict)
            if staying:
                return Wait("memory is short", staying)
            return Refuse(memory.does_not_fit(waiting.model_id, waiting.need, view.host))
    return Start(tuple(sorted(r.model_id for r in evict)))
