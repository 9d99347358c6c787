# SPDX-License-Identifier: Apache-2.0
"""The scheduling policy: a pure decision over one frozen snapshot and the queue.

`decide` gives every queued model one decision. It looks at the models in the order of their oldest
waiters, so the queue is first come, first served by model, and all who wait for one model are
served by one load; a model that is being brought up already comes before all others. For each
model, the first rule that applies:

1. It is resident as it is configured now, or as others still use it: use it. While it is being
   drained or stopped, or is about to be for one that comes first: wait. One that sleeps has to be
   woken, for which it needs a place as for a start.
2. Its start failed lately: refuse with that failure, until its back-off ends.
3. A program outside sparkd holds the GPU in a way that excludes it: refuse, and name the program.
4. It needs more memory than the host can ever give: refuse, with the arithmetic.
5. A queued model that comes first and excludes it is not served yet: wait behind that one.
6. Residents exclude it (by lifecycle, or as its own outdated instance). One that sleeps excludes
   exclusive models only, which are to be alone:
   a. one of them is being started or stopped, or loads again after its last load was evicted:
      wait for that to end. Otherwise clients that give up sooner than a load takes, of two models
      that exclude each other, would evict each other's loads without an end;
   b. one of them, configured as it is, became ready less than `min_residency` ago (or `max_wait`,
      if that is less): wait for the rest of that time, however long the waiters have waited. Where
      loads take longer than `max_wait`, all waiters have, and each load would be discarded after
      one answer for each client;
   c. one of them is in use: wait, until the oldest waiter has waited `max_wait`; from then on it is
      drained, so that a model in constant use does not starve the others.
7. Memory does not suffice beside what stays, what others are still taking while they load, and
   what those who come first will need:
   a. further residents have to go, those that sleep first, idle ones before those in use, least
      recently used first; 6b and 6c hold for them too;
   b. if not even that is enough, wait for those who load, leave or come first;
   c. if there are none, something else has the memory. What was stopped may give it back late, so
      refuse only once nothing has come back for a while.
8. Nothing is in the way: start it. A model that makes room only because of the locks sleeps
   instead of being stopped, if its entry says so.

Residents are never stopped by this module for being idle; that is the timers' work
(`lifecycle.end.idle_check`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sparkd.core.errors import GpuHeld, SparkdError
from sparkd.core.model import Lifecycle
from sparkd.core.observed import LockHolder
from sparkd.core.scheduling import memory


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    """Being drained or stopped: it takes no new requests."""
    ASLEEP = "asleep"
    """It holds no lock, and little memory."""
    ABANDONED = "abandoned"
    """It loads and no request waits for it, or its starter is gone: it may be used, or stopped at
    once."""


_MOVING = (Phase.STARTING, Phase.LEAVING)
_TAKING = (Phase.STARTING, Phase.ABANDONED)
"""Those who have not taken all of their memory yet."""
_MEMORY_LOOK_S = 1.0
"""Nothing tells when memory comes back."""


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
    held_bytes: int | None = None
    """What it takes once it is loaded, and gives back when it is stopped; None: not known."""
    may_sleep: bool = False
    """Whether it may be put to sleep instead of being stopped."""
    cut_short: bool = False
    """Its last load was evicted before it was ready, while no request waited for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The waiters of one model that they do not use yet."""

    model_id: str
    lifecycle: Lifecycle
    since: float
    """When the oldest of them came."""
    count: int = 1
    need: memory.Need | None = None
    """None: its memory is not checked."""
    short_since: float | None = None
    """Since when it waits as `Wait.short` says, or now if it does not; None: since it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentFailure:
    """A model whose last start failed, and until when it is not tried again."""

    until: float
    error: SparkdError


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInput:
    """All that a decision depends on. Times are seconds on one clock."""

    now: float
    residents: tuple[Resident, ...] = ()
    queue: tuple[Waiting, ...] = ()
    holders: tuple[LockHolder, ...] = ()
    recent_failures: Mapping[str, RecentFailure] = field(default_factory=dict)
    host: memory.HostMemory | None = None
    """None: memory is not checked."""
    min_residency_s: float = 30.0
    max_wait_s: float = 60.0
    memory_patience_s: float = 20.0
    """How long memory may take to come back before a model is refused for the lack of it."""


@dataclass(frozen=True, slots=True)
class Use:
    """It is resident: wait until it is healthy (it may already be) and lend it."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start it, after these were stopped; those in use are drained first."""

    evict: tuple[str, ...] = ()
    sleep: frozenset[str] = frozenset()
    """Which of them are put to sleep instead."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Decide again when the blockers change, at `until` at the latest."""

    why: str
    blockers: tuple[str, ...] = ()
    until: float | None = None
    short: bool = False
    """Only memory is missing, and stopping all the blockers would not give enough of it. Tell later
    decisions since when that is so for the same blockers, in `Waiting.short_since`."""


@dataclass(frozen=True, slots=True)
class Refuse:
    error: SparkdError


Decision = Use | Start | Wait | Refuse


@dataclass(frozen=True, slots=True)
class _Turn:
    """The view, and what was decided of it so far."""

    inputs: PolicyInput
    earlier: list[Waiting] = field(default_factory=list)
    """Those who come first and were not refused, in their order."""
    leaving: set[str] = field(default_factory=set)
    """Residents that will be stopped for them."""


def decide(inputs: PolicyInput, moving: frozenset[str] = frozenset()) -> dict[str, Decision]:
    """One decision for every model of the queue, in the order they were made.

    Models that are `moving` are being brought up already: they are to be used, and hold their
    place before all others.
    """
    decisions: dict[str, Decision] = {}
    turn = _Turn(inputs)
    for waiting in sorted(
        inputs.queue, key=lambda w: (w.model_id not in moving, w.since, w.model_id)
    ):
        decision: Decision
        if waiting.model_id in moving:
            decision = Use()
            turn.leaving.update(r.model_id for r in _excluded_by(inputs, waiting))
        else:
            decision = _decide_one(turn, waiting)
        decisions[waiting.model_id] = decision
        if isinstance(decision, Start):
            turn.leaving.update(decision.evict)
        if not isinstance(decision, Refuse):
            turn.earlier.append(waiting)
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
    """The refusal that names to admins who holds the GPU."""
    refusal = f"model {model_id!r} cannot start: the GPU is held by"
    return GpuHeld(
        f"{refusal} pid {holder.pid}, {holder.command!r}",
        discreet=f"{refusal} a program outside sparkd",
        hint="wait until it ends, or stop it",
        retry_after_s=30,
    )


def _decide_one(turn: _Turn, waiting: Waiting) -> Decision:
    inputs = turn.inputs
    own = _own(inputs, waiting)
    if own is not None:  # 1
        if own.phase is Phase.LEAVING or own.model_id in turn.leaving:
            return Wait("it is being stopped", (own.model_id,))
        if own.phase is not Phase.ASLEEP and (own.current or own.in_use):
            return Use()
    refusal = _refusal(inputs, waiting)  # 2, 3, 4
    if refusal is not None:
        return Refuse(refusal)
    for first in turn.earlier:  # 5
        if exclude_each_other(first.lifecycle, waiting.lifecycle):
            return Wait(f"{first.model_id} is next", (first.model_id,))
    blockers = _excluded_by(inputs, waiting)
    if own is not None and not own.current:
        blockers.append(own)
    return _wait_for(inputs, waiting, blockers) or _with_memory(turn, waiting, blockers)  # 6, 7, 8


def _own(inputs: PolicyInput, waiting: Waiting) -> Resident | None:
    return next((r for r in inputs.residents if r.model_id == waiting.model_id), None)


def _excluded_by(inputs: PolicyInput, waiting: Waiting) -> list[Resident]:
    """The other residents that cannot run beside it."""
    return [
        resident
        for resident in inputs.residents
        if resident.model_id != waiting.model_id
        and exclude_each_other(resident.lifecycle, waiting.lifecycle)
        and (resident.phase is not Phase.ASLEEP or waiting.lifecycle is Lifecycle.EXCLUSIVE)
    ]


def _refusal(inputs: PolicyInput, waiting: Waiting) -> SparkdError | None:
    recent_failure = inputs.recent_failures.get(waiting.model_id)
    if recent_failure is not None and inputs.now < recent_failure.until:  # 2
        return recent_failure.error
    foreign = excluding_program(inputs.holders, waiting.lifecycle)
    if foreign is not None:  # 3
        return gpu_held(waiting.model_id, foreign)
    if inputs.host is not None and waiting.need is not None:  # 4
        return memory.never_fits(waiting.model_id, waiting.need, inputs.host)
    return None


def _wait_for(inputs: PolicyInput, waiting: Waiting, victims: list[Resident]) -> Wait | None:
    """Rule 6: the wait that the victims ask for, or None when all may be stopped now."""
    moving = tuple(r.model_id for r in victims if _moves(r))
    if moving:  # a
        return Wait(f"{moving[0]} is starting or stopping", moving)
    settled_at = {r.model_id: _settled_at(inputs, r) for r in victims}
    fresh = tuple(model_id for model_id, at in settled_at.items() if inputs.now < at)
    if fresh:  # b
        until = max(settled_at.values())
        return Wait(f"{fresh[0]} has only just become ready", fresh, until)
    aged_at = waiting.since + inputs.max_wait_s
    busy = tuple(r.model_id for r in victims if r.in_use)
    if busy and inputs.now < aged_at:  # c
        return Wait(f"{busy[0]} is in use", busy, aged_at)
    return None


def _moves(resident: Resident) -> bool:
    """Whether it is not to be evicted before its start or stop has ended."""
    return resident.phase in _MOVING or (resident.phase is Phase.ABANDONED and resident.cut_short)


def _settled_at(inputs: PolicyInput, victim: Resident) -> float:
    """Until when a victim stays because it has just been loaded."""
    if victim.phase in (Phase.ABANDONED, Phase.ASLEEP) or not victim.current:
        return inputs.now
    return victim.ready_at + min(inputs.min_residency_s, inputs.max_wait_s)


def _with_memory(turn: _Turn, waiting: Waiting, blockers: list[Resident]) -> Decision:
    """Rules 7 and 8."""
    inputs = turn.inputs
    victims = list(blockers)
    if inputs.host is not None and waiting.need is not None:
        taken = {first.model_id for first in turn.earlier} | turn.leaving | {waiting.model_id}
        candidates = sorted(
            (
                r
                for r in inputs.residents
                if r not in victims and not _moves(r) and r.model_id not in taken
            ),
            key=lambda r: (r.phase is not Phase.ASLEEP, r.in_use, r.last_used_at, r.model_id),
        )
        while not (fits := _fits(turn, waiting.need, inputs.host, victims)) and candidates:  # a
            victims.append(candidates.pop(0))
        if not fits:  # b, c
            return _without_memory(turn, waiting, victims, waiting.need, inputs.host)
    wait = _wait_for(inputs, waiting, victims)
    if wait is not None:
        return wait
    only_locks = victims == blockers and waiting.lifecycle is not Lifecycle.EXCLUSIVE
    sleep = frozenset(r.model_id for r in victims if only_locks and r.may_sleep)
    return Start(tuple(sorted(r.model_id for r in victims)), sleep)


def _fits(turn: _Turn, need: memory.Need, host: memory.HostMemory, victims: list[Resident]) -> bool:
    freed = [victim.held_bytes for victim in victims]
    if None in freed:
        # A model with an unknown amount may hold all that no other model is known to hold; a
        # smaller guess would refuse what fits, and the guard watches the load.
        stay = [r for r in turn.inputs.residents if r not in victims and r.phase not in _TAKING]
        kept = sum(resident.held_bytes or 0 for resident in stay)
        host = replace(host, available_bytes=host.total_bytes - kept)
        freed = []
    return memory.fits(need, host, [size or 0 for size in freed], _reserved(turn, victims))


def _reserved(turn: _Turn, victims: list[Resident]) -> int:
    """What those who load or come first will take, beyond what those whose place they take have.

    All normal models share one place, for only one of them is resident at a time.
    """
    wanted: dict[str, float] = {}
    held: dict[str, float] = {}
    for first in turn.earlier:
        if first.need is not None:
            place = _place(first)
            wanted[place] = max(wanted.get(place, 0), first.need.peak_bytes)
    for resident in turn.inputs.residents:
        if resident not in victims and resident.phase is not Phase.ASLEEP:
            place = _place(resident)
            if resident.phase in _TAKING:
                wanted[place] = max(wanted.get(place, 0), resident.held_bytes or 0)
            else:
                held[place] = float("inf") if resident.held_bytes is None else resident.held_bytes
    return int(sum(max(0, size - held.get(place, 0)) for place, size in wanted.items()))


def _place(model: Waiting | Resident) -> str:
    return model.model_id if model.lifecycle is Lifecycle.UTILITY else "the main model"


def _without_memory(
    turn: _Turn,
    waiting: Waiting,
    victims: list[Resident],
    need: memory.Need,
    host: memory.HostMemory,
) -> Decision:
    """Rules 7b and 7c."""
    inputs = turn.inputs
    others = {r.model_id for r in inputs.residents if r not in victims}
    others.update(first.model_id for first in turn.earlier)
    if others:
        return Wait("memory is short", tuple(sorted(others)))
    short_since = waiting.since if waiting.short_since is None else waiting.short_since
    patient_until = short_since + inputs.memory_patience_s
    if inputs.now < patient_until:
        look_at = min(patient_until, inputs.now + _MEMORY_LOOK_S)
        spared = tuple(sorted(r.model_id for r in victims))
        return Wait("memory is short", spared, look_at, short=True)
    return Refuse(memory.does_not_fit(waiting.model_id, need, host))
