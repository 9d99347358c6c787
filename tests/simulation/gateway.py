# SPDX-License-Identifier: Apache-2.0
"""What sparkd does with the decisions of the policy, in virtual time.

It mirrors, step by step and with the same pauses, what the real modules do:

- `ensure`: a model that runs as configured and is not in transition is lent at once;
- `scheduler`: all others queue by model; each turn lets `policy.decide` decide about everybody,
  sends off one task a model, and sleeps until a request comes or leaves, a task ends, the locks of
  a model in the way change (seen within 50 ms) or a time comes. The slow look every 5 s is left
  out on purpose: what a decision waits for must be in the decision;
- `starter`: decides again alone under the transition lock, drains or locks the victims, makes room
  under the start lock, waits for their memory, loads, lends; taken back when nobody waits any more;
- `reap`: a model that was not used for `idle_timeout` is stopped, by another process.

Whatever no scheduling may ever do is asserted here, at the moment at which it would happen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from sparkd.core import backoff, memory, policy
from sparkd.core.errors import Busy, SparkdError, StartCrashed, Unavailable
from sparkd.core.policy import Phase
from tests.simulation.virtual_time import Cancelled, Clock, Steps, Task, Until, pause
from tests.simulation.workload import Model, Request, Workload

LOOK_S = 0.05
RETRY_S = 0.5
RECOVERY_LIMIT_S = 20.0
LOAD_TIMEOUT_S = 900.0


class End(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    LEFT = "left"


@dataclass(slots=True, eq=False)
class Asked:
    """One request on its way."""

    request: Request
    at_s: float
    on_end: Callable[[], None]
    end: End | None = None
    error: SparkdError | None = None
    granted_s: float | None = None
    ended_s: float = 0.0
    moving_s: float = 0.0
    """How much of its wait a model was drained, stopped or loaded, or gave its memory back."""
    loads: int = 0
    """How many loads of other models ended well while it waited."""

    @property
    def wait_s(self) -> float:
        assert self.granted_s is not None
        return self.granted_s - self.at_s


@dataclass(slots=True, eq=False)
class Instance:
    """The process of a model."""

    version: int
    started_s: float
    known: bool
    """Whether its need was known when it was started."""
    ready_s: float | None = None
    stopping: bool = False


@dataclass(slots=True, eq=False)
class Slot:
    """A model with its locks and what is remembered of it."""

    model: Model
    known: bool
    version: int = 0
    instance: Instance | None = None
    leases: int = 0
    in_transition: bool = False
    last_used_s: float = 0.0
    loads: int = 0
    failures: int = 0
    setback: policy.Setback | None = None

    @property
    def peak_bytes(self) -> int:
        return self.model.peak_bytes


@dataclass(slots=True, eq=False)
class Entry:
    model_id: str
    waiters: dict[Asked, float] = field(default_factory=dict)
    task: Task | None = None
    not_before_s: float = 0.0


@dataclass(slots=True)
class Count:
    loads: int = 0
    failed_loads: int = 0
    taken_back: int = 0
    """Loads that were cancelled, because nobody waited for them any more."""
    evictions: int = 0
    drains: int = 0
    idle_stops: int = 0
    turns: int = 0


class _Failed(Exception):
    def __init__(self, error: SparkdError) -> None:
        self.error = error


class Gateway:
    def __init__(self, workload: Workload, clock: Clock) -> None:
        self.workload = workload
        self.rules = workload.rules
        self.clock = clock
        self.slots = {m.model_id: Slot(m, m.known) for m in workload.models}
        self.entries: dict[str, Entry] = {}
        self.count = Count()
        self.asked: list[Asked] = []
        self.moving_s = 0.0
        """For how long so far at least one model was on the move."""
        self._movers = 0
        self._moved_s = 0.0
        self._returning: list[tuple[float, int]] = []
        self._seen: set[str] = set()
        self._freed_s = float("-inf")
        self._starting = False
        self._turn_due = False
        self._watched: dict[str, tuple[bool, bool]] = {}
        self._look_due = False
        clock.on_step = self.check

    # What must hold at every moment.

    def check(self) -> None:
        alive = [slot for slot in self.slots.values() if slot.instance is not None]
        for one in alive:
            for other in alive:
                if one is not other:
                    assert not policy.exclude_each_other(
                        one.model.lifecycle, other.model.lifecycle
                    ), f"{one.model.model_id} runs beside {other.model.model_id}"
        host = self.workload.host
        if host is not None and all(s.instance is not None and s.instance.known for s in alive):
            promised = sum(slot.peak_bytes for slot in alive)
            assert promised <= host.total_bytes - host.reserve_bytes, "memory was promised twice"

    # ensure, and what clients do

    def ask(self, request: Request, on_end: Callable[[], None]) -> Asked:
        self._integrate()
        asked = Asked(request, self.clock.now, on_end, moving_s=-self.moving_s)
        asked.loads = -self.count.loads
        self.asked.append(asked)
        slot = self.slots[request.model_id]
        instance = slot.instance
        if instance is not None and self._lends(slot, instance):
            self._grant(slot, asked)
        elif sum(len(entry.waiters) for entry in self.entries.values()) >= self.rules.queue_limit:
            self._refuse(asked, Busy("the queue is full", code="queue_full"))
        else:
            self._join(asked)
        return asked

    def _lends(self, slot: Slot, instance: Instance) -> bool:
        healthy = instance.ready_s is not None and not instance.stopping
        return healthy and not slot.in_transition and instance.version == slot.version

    def reload(self, model_id: str) -> None:
        self.slots[model_id].version += 1
        self._wake()

    def kill(self) -> None:
        """The daemon dies: connections break, locks are let go, models live on."""
        entries, self.entries = list(self.entries.values()), {}
        for entry in entries:
            if entry.task is not None:
                self.clock.kill(entry.task)
            entry.waiters.clear()
        self._starting = False
        self._freed_s, self._seen = float("-inf"), set()
        for slot in self.slots.values():
            slot.leases = 0
        for asked in self.asked:
            if asked.end is None:
                self._refuse(asked, Unavailable("the connection broke", code="killed"))

    def _grant(self, slot: Slot, asked: Asked) -> None:
        self._integrate()
        asked.granted_s = self.clock.now
        asked.moving_s += self.moving_s
        asked.loads += self.count.loads
        slot.leases += 1
        slot.last_used_s = self.clock.now
        self._locks_changed(slot)
        self.clock.after(asked.request.service_s, lambda: self._answered(slot, asked))

    def _answered(self, slot: Slot, asked: Asked) -> None:
        if asked.end is not None:
            return
        assert slot.instance is not None, "a model was stopped while it answered"
        assert slot.instance.ready_s is not None
        slot.leases -= 1
        slot.last_used_s = self.clock.now
        self._locks_changed(slot)
        self._end(asked, End.ANSWERED)

    def _refuse(self, asked: Asked, error: SparkdError) -> None:
        asked.error = error
        self._end(asked, End.REFUSED)

    def _end(self, asked: Asked, end: End) -> None:
        assert asked.end is None, "a request ended twice"
        asked.end, asked.ended_s = end, self.clock.now
        asked.on_end()

    # scheduler

    def _join(self, asked: Asked) -> None:
        model_id = asked.request.model_id
        entry = self.entries.setdefault(model_id, Entry(model_id))
        entry.waiters[asked] = self.clock.now
        self._wake()
        timeout = Busy("it waited too long", code="queue_timeout")
        self.clock.after(
            self.rules.queue_timeout_s, lambda: self._leave(entry, asked, End.REFUSED, timeout)
        )
        if asked.request.patience_s < float("inf"):
            self.clock.after(
                asked.request.patience_s, lambda: self._leave(entry, asked, End.LEFT, None)
            )

    def _leave(self, entry: Entry, asked: Asked, end: End, error: SparkdError | None) -> None:
        if asked not in entry.waiters:
            return
        del entry.waiters[asked]
        asked.error = error
        if not entry.waiters:
            self._abandon(entry)
        self._end(asked, end)

    def _abandon(self, entry: Entry) -> None:
        if self.entries.get(entry.model_id) is entry:
            del self.entries[entry.model_id]
        if entry.task is not None:
            self.clock.cancel(entry.task)
        self._wake()

    def _wake(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self.clock.after(0.0, self._turn)

    def _turn(self) -> None:
        if not self._turn_due:
            return
        self._turn_due = False
        self._watched = {}
        if not self.entries:
            return
        self.count.turns += 1
        moving = frozenset(model_id for model_id, entry in self.entries.items() if entry.task)
        decisions = policy.decide(self._view(list(self.entries.values())), moving)
        until_s = float("inf")
        for model_id, decision in decisions.items():
            entry = self.entries.get(model_id)
            if entry is None or entry.task is not None:
                continue
            match decision:
                case policy.Refuse(error):
                    self._fail(entry, error)
                case policy.Wait():
                    self._watch(decision.blockers)
                    until_s = min(until_s, decision.until or float("inf"))
                    assert decision.blockers or decision.until, f"{decision} waits for nothing"
                case _ if self.clock.now < entry.not_before_s:
                    until_s = min(until_s, entry.not_before_s)
                case _:
                    before = [other for other in self.entries.values() if other.task is not None]
                    entry.task = self.clock.start(self._bring_up(entry, before))
        if until_s < float("inf"):
            assert until_s > self.clock.now, "a decision waits for the past"
            self.clock.at(until_s, self._wake)

    def _watch(self, blockers: tuple[str, ...]) -> None:
        for model_id in blockers:
            self._watched[model_id] = self._activity(self.slots[model_id])

    def _activity(self, slot: Slot) -> tuple[bool, bool]:
        return slot.leases > 0, slot.in_transition

    def _locks_changed(self, slot: Slot) -> None:
        if slot.model.model_id in self._watched and not self._look_due:
            self._look_due = True
            self.clock.after(LOOK_S, self._look)

    def _look(self) -> None:
        self._look_due = False
        if any(self._activity(self.slots[m]) != before for m, before in self._watched.items()):
            self._wake()

    def _fail(self, entry: Entry, error: SparkdError) -> None:
        if self.entries.get(entry.model_id) is entry:
            del self.entries[entry.model_id]
        waiters, entry.waiters = list(entry.waiters), {}
        for asked in waiters:
            self._refuse(asked, error)
        self._wake()

    def _view(self, entries: list[Entry], ours: str | None = None) -> policy.View:
        alive = {slot.model.model_id for slot in self.slots.values() if slot.instance is not None}
        if self._seen - alive:
            self._freed_s = self.clock.now
        self._seen = alive
        return policy.View(
            now=self.clock.now,
            residents=tuple(
                self._resident(slot, slot.instance, ours=slot.model.model_id == ours)
                for slot in self.slots.values()
                if slot.instance is not None
            ),
            queue=tuple(self._waiting(entry) for entry in entries),
            setbacks={
                entry.model_id: setback
                for entry in entries
                if (setback := self.slots[entry.model_id].setback) is not None
            },
            host=self._host(),
            freed_at=self._freed_s,
            min_residency_s=self.rules.min_residency_s,
            max_wait_s=self.rules.max_wait_s,
        )

    def _resident(self, slot: Slot, instance: Instance, *, ours: bool) -> policy.Resident:
        moving = slot.in_transition and not ours
        if instance.ready_s is None:
            phase = Phase.STARTING if moving else Phase.ABANDONED
        elif moving:
            phase = Phase.LEAVING
        else:
            phase = Phase.READY
        return policy.Resident(
            model_id=slot.model.model_id,
            lifecycle=slot.model.lifecycle,
            phase=phase,
            in_use=slot.leases > 0,
            current=instance.version == slot.version,
            ready_at=instance.started_s if instance.ready_s is None else instance.ready_s,
            last_used_at=slot.last_used_s,
            held_bytes=slot.peak_bytes if slot.known else None,
        )

    def _waiting(self, entry: Entry) -> policy.Waiting:
        slot = self.slots[entry.model_id]
        return policy.Waiting(
            model_id=entry.model_id,
            lifecycle=slot.model.lifecycle,
            since=min(entry.waiters.values(), default=self.clock.now),
            count=len(entry.waiters),
            need=self._need(slot),
        )

    def _need(self, slot: Slot) -> memory.Need | None:
        if self.workload.host is None or not slot.known:
            return None
        return memory.Need(peak_bytes=slot.peak_bytes, basis=memory.Basis.MEASURED)

    def _host(self) -> memory.HostMemory | None:
        host = self.workload.host
        if host is None:
            return None
        now = self.clock.now
        self._returning = [(back_s, size) for back_s, size in self._returning if back_s > now]
        taken = sum(size for _, size in self._returning)
        taken += sum(size for begin_s, end_s, size in host.others if begin_s <= now < end_s)
        for slot in self.slots.values():
            if slot.instance is not None:
                taken += self._taken(slot, slot.instance)
        return memory.HostMemory(
            total_bytes=host.total_bytes,
            available_bytes=host.total_bytes - taken,
            reserve_bytes=host.reserve_bytes,
        )

    def _taken(self, slot: Slot, instance: Instance) -> int:
        """A load takes its memory bit by bit."""
        if instance.ready_s is not None or slot.model.load_s == 0:
            return slot.peak_bytes
        share = (self.clock.now - instance.started_s) / slot.model.load_s
        return int(slot.peak_bytes * min(1.0, share))

    # starter

    def _bring_up(self, entry: Entry, before: list[Entry]) -> Steps:
        """Serve one entry; those in `before` were sent off earlier."""
        slot = self.slots[entry.model_id]
        try:
            yield Until(lambda: not slot.in_transition)
            with self._transition(slot):
                if (yield from self._up(entry, slot, before)):
                    waiters, entry.waiters = list(entry.waiters), {}
                    if self.entries.get(entry.model_id) is entry:
                        del self.entries[entry.model_id]
                    for asked in waiters:
                        self._grant(slot, asked)
                else:
                    entry.not_before_s = self.clock.now + RETRY_S
        except _Failed as failed:
            self._fail(entry, failed.error)
        finally:
            entry.task = None
            self._wake()

    def _up(self, entry: Entry, slot: Slot, before: list[Entry]) -> Generator[Until, None, bool]:
        view = self._view([entry, *before], ours=slot.model.model_id)
        moving = frozenset(other.model_id for other in before)
        decision = policy.decide(view, moving)[entry.model_id]
        match decision:
            case policy.Refuse(error):
                raise _Failed(error)
            case policy.Wait():
                return False
            case policy.Use():
                assert slot.instance is not None
                return (yield from self._adopt(slot, slot.instance))
        with self._move(), ExitStack() as held:
            in_use = {resident.model_id for resident in view.residents if resident.in_use}
            for model_id in decision.evict:
                victim = self.slots[model_id]
                if victim is not slot:
                    if model_id not in in_use and (victim.in_transition or victim.leases):
                        return False
                    yield Until(lambda victim=victim: not victim.in_transition)
                    held.enter_context(self._transition(victim))
                    self.count.drains += victim.leases > 0
                    yield Until(lambda victim=victim: victim.leases == 0)
                elif slot.leases:
                    return False
            yield Until(lambda: not self._starting)
            self._starting = True
            try:
                if self._newcomer(slot, decision.evict):
                    return False
                yield from self._make_room(entry, slot, decision.evict)
                instance = slot.instance = Instance(slot.version, self.clock.now, slot.known)
            finally:
                self._starting = False
            held.close()
            yield from self._load(entry, slot, instance)
        return True

    def _newcomer(self, slot: Slot, evict: tuple[str, ...]) -> bool:
        return any(
            other.instance is not None
            and other.model.model_id not in evict
            and policy.exclude_each_other(slot.model.lifecycle, other.model.lifecycle)
            for other in self.slots.values()
        )

    def _make_room(self, entry: Entry, slot: Slot, evict: tuple[str, ...]) -> Steps:
        for model_id in evict:
            victim = self.slots[model_id]
            if victim.instance is not None:
                self.count.evictions += 1
                yield from self._stop(victim, entry.task)
        host, need = self.workload.host, self._need(slot)
        if evict and host is not None and need is not None:
            wanted = need.peak_bytes + host.reserve_bytes
            yield Until(lambda: self._available() >= wanted, self._return_s())

    def _available(self) -> int:
        host = self._host()
        assert host is not None
        return host.available_bytes

    def _return_s(self) -> float:
        back_s = max((back_s for back_s, _ in self._returning), default=self.clock.now)
        return min(back_s - self.clock.now, RECOVERY_LIMIT_S)

    def _load(self, entry: Entry, slot: Slot, instance: Instance) -> Steps:
        slot.loads += 1
        self.clock.after(
            LOAD_TIMEOUT_S + self.rules.idle_timeout_s, lambda: self._load_pass(slot, instance)
        )
        try:
            yield pause(slot.model.load_s)
        except Cancelled:
            self.count.taken_back += 1
            yield from self._stop(slot, entry.task)
            raise
        yield from self._loaded(slot, instance, entry.task)

    def _adopt(self, slot: Slot, instance: Instance) -> Generator[Until, None, bool]:
        """Wait for what a killed daemon began: a load that is never taken back, or a stop."""
        if instance.stopping:
            yield Until(lambda: slot.instance is not instance)
            return False
        if instance.ready_s is None:
            with self._move():
                yield pause(max(0.0, instance.started_s + slot.model.load_s - self.clock.now))
                yield from self._loaded(slot, instance, None)
        return True

    def _loaded(self, slot: Slot, instance: Instance, task: Task | None) -> Steps:
        """A load has ended, well or not."""
        if slot.loads in slot.model.failing:
            yield from self._stop(slot, task)
            self.count.failed_loads += 1
            slot.failures += 1
            until_s = backoff.until(self.clock.now, slot.failures)
            error = StartCrashed(f"{slot.model.model_id} exited while it started")
            slot.setback = policy.Setback(until=until_s, error=error)
            raise _Failed(error)
        slot.failures, slot.setback, slot.known = 0, None, True
        self.count.loads += 1
        instance.ready_s = slot.last_used_s = self.clock.now
        self.clock.after(self.rules.idle_timeout_s, lambda: self._idle_pass(slot, instance))

    def _stop(self, slot: Slot, task: Task | None) -> Steps:
        """Stop a model to the end, whatever happens meanwhile."""
        assert slot.instance is not None
        assert slot.leases == 0, "a model in use was stopped"
        assert slot.in_transition, "a model was stopped without its lock"
        instance = slot.instance
        if instance.stopping:
            # By somebody who was killed.
            yield Until(lambda: slot.instance is not instance)
            return
        instance.stopping = True
        if task is not None:
            task.shielded = True
        try:
            yield pause(slot.model.stop_s)
        except GeneratorExit:
            # Whoever stops it is killed; the signal was sent, so it ends by itself.
            self.clock.after(slot.model.stop_s, lambda: self._gone(slot, instance))
            raise
        if task is not None:
            task.shielded = False
        self._gone(slot, instance)

    def _gone(self, slot: Slot, instance: Instance) -> None:
        if slot.instance is not instance:
            return
        host = self.workload.host
        if host is not None:
            back_s = self.clock.now + host.recovery_s
            self._returning.append((back_s, self._taken(slot, slot.instance)))
            self._count_movers(1)
            self.clock.at(back_s, lambda: self._count_movers(-1))
        slot.instance = None

    # reap

    def _load_pass(self, slot: Slot, instance: Instance) -> None:
        if slot.instance is instance and instance.ready_s is None:
            self.clock.start(self._idle_stop(slot))

    def _idle_pass(self, slot: Slot, instance: Instance) -> None:
        if slot.instance is not instance:
            return
        now, timeout_s = self.clock.now, self.rules.idle_timeout_s
        busy = slot.in_transition or slot.leases > 0
        due_s = now + timeout_s if busy else slot.last_used_s + timeout_s
        if now < due_s:
            self.clock.at(due_s, lambda: self._idle_pass(slot, instance))
            return
        self.count.idle_stops += 1
        self.clock.start(self._idle_stop(slot))

    def _idle_stop(self, slot: Slot) -> Steps:
        if slot.in_transition or slot.leases or slot.instance is None:
            return
        with self._move(), self._transition(slot):
            yield from self._stop(slot, None)

    # locks, and the time in which something moves

    @contextmanager
    def _transition(self, slot: Slot) -> Generator[None, None, None]:
        assert not slot.in_transition, "two transitions of one model at once"
        slot.in_transition = True
        self._locks_changed(slot)
        try:
            yield
        finally:
            slot.in_transition = False
            self._locks_changed(slot)

    @contextmanager
    def _move(self) -> Generator[None, None, None]:
        self._count_movers(1)
        try:
            yield
        finally:
            self._count_movers(-1)

    def _count_movers(self, change: int) -> None:
        self._integrate()
        self._movers += change

    def _integrate(self) -> None:
        if self._movers:
            self.moving_s += self.clock.now - self._moved_s
        self._moved_s = self.clock.now
