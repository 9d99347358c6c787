# SPDX-License-Identifier: Apache-2.0
"""What sparkd does with the decisions of the policy, in virtual time.

It mirrors, step by step and with the same pauses, what the real modules do:

- `scheduling.ensure`: a model that runs as configured and is not in transition is lent at once;
- `scheduling.scheduler`: all others queue by model; each turn lets `policy.decide` decide about
  everybody, sends off one task a model, and sleeps until a request comes or leaves, a task ends,
  the locks of a model in the way change (seen within 50 ms) or a time comes. The slow look every 5
  s is left out on purpose: what a decision waits for must be in the decision;
- `scheduling.starter`: decides again under the transition lock, drains or locks the victims, makes
  room under the start lock, waits for their memory, loads, lends. From the moment it makes room, a
  start goes on when its last waiter leaves, unless the rules have it taken back;
- `scheduling.unattended_loads`: a load without waiters holds no lock, and is completed when it
  ends;
- `lifecycle.end.idle_check`, in `house`: a model that was not used for `idle_timeout` is stopped by
another process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import StrEnum

from sparkd.core.errors import Busy, SparkdError, StartCrashed, Unavailable
from sparkd.core.scheduling import backoff, policy
from tests.simulation.sim_host import House, Instance, Slot
from tests.simulation.virtual_time import Cancelled, Clock, Steps, Task, Until, pause
from tests.simulation.workload import Request, Workload

LOOK_S = 0.05
RETRY_S = 0.5
RECOVERY_LIMIT_S = 20.0


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
    """How many loads ended well while it waited, its own among them."""

    @property
    def wait_s(self) -> float:
        assert self.granted_s is not None
        return self.granted_s - self.at_s


@dataclass(slots=True, eq=False)
class Entry:
    """The waiters of one model, and the task that serves them."""

    model_id: str
    waiters: dict[Asked, float] = field(default_factory=dict)
    task: Task | None = None
    not_before_s: float = 0.0
    short: tuple[str, ...] | None = None
    """What blocked it when only memory was missing, and since when that is so."""
    short_since_s: float = 0.0


class _Failed(Exception):
    def __init__(self, error: SparkdError) -> None:
        self.error = error


class Gateway:
    def __init__(self, workload: Workload, clock: Clock) -> None:
        self.clock = clock
        self.rules = workload.rules
        self.house = House(workload, clock)
        self.house.on_locks = self._locks_changed
        self.asked: list[Asked] = []
        self._entries: dict[str, Entry] = {}
        self._tasks: list[Task] = []
        self._starting = False
        self._turns = 0
        self._turn_due = False
        self._watched: dict[str, tuple[bool, bool]] = {}
        self._look_due = False

    # What happens to it

    def ask(self, request: Request, on_end: Callable[[], None]) -> Asked:
        asked = Asked(
            request,
            self.clock.now,
            on_end,
            moving_s=-self.house.moving_s,
            loads=-self.house.count.loads,
        )
        self.asked.append(asked)
        slot = self.house.slots[request.model_id]
        waiting = sum(len(entry.waiters) for entry in self._entries.values())
        if slot.instance is not None and self._lends(slot, slot.instance):
            self._grant(slot, asked)
        elif waiting >= self.rules.queue_limit:
            self._refuse(asked, Busy("the queue is full", code="queue_full"))
        else:
            self._join(asked)
        return asked

    def reload(self, model_id: str) -> None:
        """The configuration of a model changes."""
        self.house.slots[model_id].version += 1
        self._wake()

    def kill(self) -> None:
        """The daemon dies: connections break, locks are let go, models live on."""
        entries, self._entries = list(self._entries.values()), {}
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            self.clock.kill(task)
        for entry in entries:
            entry.waiters.clear()
        self._starting = False
        for slot in self.house.slots.values():
            slot.leases = 0
        for asked in self.asked:
            if asked.end is None:
                self._refuse(asked, Unavailable("the connection broke", code="killed"))
        for slot, instance in self.house.alive():
            if instance.ready_s is None and not instance.stopping:
                self._tend(slot, instance)

    # ensure

    def _lends(self, slot: Slot, instance: Instance) -> bool:
        healthy = instance.ready_s is not None and not instance.stopping
        return healthy and not slot.in_transition and instance.version == slot.version

    def _grant(self, slot: Slot, asked: Asked) -> None:
        asked.granted_s = self.clock.now
        asked.moving_s += self.house.moving_s
        asked.loads += self.house.count.loads
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
        entry = self._entries.setdefault(model_id, Entry(model_id))
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
            self._forget(entry)
            if entry.task is not None:
                self.clock.cancel(entry.task)
            self._wake()
        self._end(asked, end)

    def _forget(self, entry: Entry) -> None:
        if self._entries.get(entry.model_id) is entry:
            del self._entries[entry.model_id]

    def _fail(self, entry: Entry, error: SparkdError) -> None:
        self._forget(entry)
        waiters, entry.waiters = list(entry.waiters), {}
        for asked in waiters:
            self._refuse(asked, error)
        self._wake()

    def _wake(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self.clock.after(0.0, self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        self._watched = {}
        if not self._entries:
            return
        self._turns += 1
        self.house.count.turns += 1
        moving = frozenset(model_id for model_id, entry in self._entries.items() if entry.task)
        decisions = policy.decide(self._view(list(self._entries.values())), moving)
        waits = []
        for model_id, decision in decisions.items():
            entry = self._entries.get(model_id)
            if entry is not None and entry.task is None:
                waits += self._act(entry, decision)
        for wait in waits:
            for model_id in wait.blockers:
                self._watched[model_id] = self.house.slots[model_id].activity
        until_s = min((w.until for w in waits if w.until is not None), default=float("inf"))
        if until_s < float("inf"):
            assert until_s > self.clock.now, "a decision waits for the past"
            turn = self._turns
            self.clock.at(until_s, lambda: self._wake() if turn == self._turns else None)

    def _act(self, entry: Entry, decision: policy.Decision) -> list[policy.Wait]:
        wait = decision if isinstance(decision, policy.Wait) and decision.short else None
        short = wait.blockers if wait else None
        if short is None or short != entry.short:
            entry.short, entry.short_since_s = short, self.clock.now
        match decision:
            case policy.Refuse(error):
                self._fail(entry, error)
            case policy.Wait(_, blockers, until):
                assert blockers or until is not None, "a decision waits for nothing"
                return [decision]
            case _ if self.clock.now < entry.not_before_s:
                return [policy.Wait("looking again", (), entry.not_before_s)]
            case _:
                before = [other for other in self._entries.values() if other.task is not None]
                entry.task = self.clock.start(self._start_or_wake(entry, before))
                self._tasks.append(entry.task)
        return []

    def _locks_changed(self, slot: Slot) -> None:
        if slot.model.model_id in self._watched and not self._look_due:
            self._look_due = True
            self.clock.after(LOOK_S, self._look)

    def _look(self) -> None:
        self._look_due = False
        if any(self.house.slots[m].activity != before for m, before in self._watched.items()):
            self._wake()

    def _view(self, entries: list[Entry], ours: Slot | None = None) -> policy.PolicyInput:
        slots = self.house.slots
        return policy.PolicyInput(
            now=self.clock.now,
            residents=tuple(
                self.house.resident(slot, instance, ours=slot is ours)
                for slot, instance in self.house.alive()
            ),
            queue=tuple(self._waiting(entry) for entry in entries),
            recent_failures={
                entry.model_id: recent_failure
                for entry in entries
                if (recent_failure := slots[entry.model_id].recent_failure) is not None
            },
            host=self.house.reading(),
            min_residency_s=self.rules.min_residency_s,
            max_wait_s=self.rules.max_wait_s,
        )

    def _waiting(self, entry: Entry) -> policy.Waiting:
        slot = self.house.slots[entry.model_id]
        return policy.Waiting(
            model_id=entry.model_id,
            lifecycle=slot.model.lifecycle,
            since=min(entry.waiters.values(), default=self.clock.now),
            count=len(entry.waiters),
            need=self.house.need(slot),
            short_since=self.clock.now if entry.short is None else entry.short_since_s,
        )

    # starter

    def _start_or_wake(self, entry: Entry, before: list[Entry]) -> Steps:
        """Serve one entry; those in `before` were sent off earlier."""
        slot = self.house.slots[entry.model_id]
        try:
            yield Until(lambda: not slot.in_transition)
            with self.house.transition(slot):
                if (yield from self._up(entry, slot, before)):
                    waiters, entry.waiters = list(entry.waiters), {}
                    self._forget(entry)
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
        inputs = self._view([entry, *before], ours=slot)
        moving = frozenset(other.model_id for other in before)
        decision = policy.decide(inputs, moving)[entry.model_id]
        match decision:
            case policy.Refuse(error):
                raise _Failed(error)
            case policy.Wait():
                return False
            case policy.Use():
                assert slot.instance is not None
                return (yield from self._adopt(entry, slot, slot.instance))
            case policy.Start(evict):
                with self.house.move():
                    return (yield from self._start(entry, slot, inputs, evict))

    def _adopt(self, entry: Entry, slot: Slot, instance: Instance) -> Generator[Until, None, bool]:
        """Wait for what a killed daemon began: a load that is never taken back, or a stop."""
        with self.house.move():
            if instance.stopping:
                yield Until(lambda: slot.instance is not instance)
                return False
            if instance.ready_s is None:
                yield pause(max(0.0, instance.started_s + slot.model.load_s - self.clock.now))
                yield from self._loaded(slot, instance, entry.task)
        return True

    def _start(
        self, entry: Entry, slot: Slot, inputs: policy.PolicyInput, evict: tuple[str, ...]
    ) -> Generator[Until, None, bool]:
        in_use = {resident.model_id for resident in inputs.residents if resident.in_use}
        victims = [self.house.slots[model_id] for model_id in evict]
        with ExitStack() as held:
            for victim in victims:
                if victim is slot:
                    if victim.leases:
                        return False
                    continue
                drain = victim.model.model_id in in_use
                if not drain and (victim.in_transition or victim.leases):
                    return False
                yield from self._drain(victim, held)
            yield Until(lambda: not self._starting)
            self._starting = True
            try:
                if self._newcomer(slot, evict):
                    return False
                instance = yield from self._place(entry, slot, victims)
                if instance is None:
                    return False
            finally:
                self._starting = False
        yield from self._load(entry, slot, instance)
        return True

    def _drain(self, victim: Slot, held: ExitStack) -> Steps:
        yield Until(lambda: not victim.in_transition)
        held.enter_context(self.house.transition(victim))
        self.house.count.drains += victim.leases > 0
        yield Until(lambda: victim.leases == 0)

    def _newcomer(self, slot: Slot, evict: tuple[str, ...]) -> bool:
        return any(
            other.model.model_id not in evict
            and policy.exclude_each_other(slot.model.lifecycle, other.model.lifecycle)
            for other, _ in self.house.alive()
        )

    def _place(
        self, entry: Entry, slot: Slot, victims: list[Slot]
    ) -> Generator[Until, None, Instance | None]:
        """Make room and begin the load, to the end where abandoned loads are finished."""
        task = entry.task
        assert task is not None
        task.shielded = self.rules.finish_abandoned_loads
        if not (yield from self._make_room(entry, slot, victims)):
            return None
        instance = self.house.begin(slot)
        task.shielded = False
        return instance

    def _make_room(
        self, entry: Entry, slot: Slot, victims: list[Slot]
    ) -> Generator[Until, None, bool]:
        """Stop the victims; whether their memory suffices when no more of it comes back."""
        for victim in victims:
            if victim.instance is not None:
                self.house.count.evictions += 1
                victim.cut_short |= victim.instance.ready_s is None
                shielded = self.rules.finish_abandoned_loads
                yield from self.house.stop(victim, None if shielded else entry.task)
        need = self.house.need(slot)
        if not victims or need is None:
            return True
        yield self.house.recovered(need, RECOVERY_LIMIT_S)
        return self.house.has_room(need)

    def _load(self, entry: Entry, slot: Slot, instance: Instance) -> Steps:
        try:
            yield pause(slot.model.load_s)
        except Cancelled:
            if self.rules.finish_abandoned_loads:
                self._tend(slot, instance)
                raise
            self.house.count.taken_back += 1
            yield from self.house.stop(slot, entry.task)
            raise
        yield from self._loaded(slot, instance, entry.task)

    def _tend(self, slot: Slot, instance: Instance) -> None:
        """Have a load completed that no request waits for."""
        if self.rules.finish_abandoned_loads:
            self._tasks.append(self.clock.start(self._tended(slot, instance)))

    def _tended(self, slot: Slot, instance: Instance) -> Steps:
        remaining_s = instance.started_s + slot.model.load_s - self.clock.now
        yield Until(lambda: slot.instance is not instance, max(0.0, remaining_s))
        yield Until(lambda: slot.instance is not instance or not slot.in_transition)
        if slot.instance is instance and instance.ready_s is None and not instance.stopping:
            with self.house.transition(slot), suppress(_Failed):
                yield from self._loaded(slot, instance, None)

    def _loaded(self, slot: Slot, instance: Instance, task: Task | None) -> Steps:
        """A load has ended, well or not."""
        if slot.loads not in slot.model.failing:
            slot.cut_short = False
            self.house.ready(slot, instance)
            return
        yield from self.house.stop(slot, task)
        self.house.count.failed_loads += 1
        slot.failures += 1
        error = StartCrashed(f"{slot.model.model_id} exited while it started")
        until_s = backoff.until(self.clock.now, slot.failures)
        slot.recent_failure = policy.RecentFailure(until=until_s, error=error)
        raise _Failed(error)
