# SPDX-License-Identifier: Apache-2.0
"""The simulated host: processes of models, their locks, their memory, and the idle passes.

It asserts the invariants of scheduling at the moment at which a violation would happen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from sparkd.core.model import Lifecycle
from sparkd.core.scheduling import memory, policy
from sparkd.core.scheduling.policy import Phase
from tests.simulation.virtual_time import Clock, Steps, Task, Until, pause
from tests.simulation.workload import Model, Workload

LOAD_TIMEOUT_S = 900.0


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
    """Whether it is known what it takes."""
    version: int = 0
    """Of its configuration."""
    instance: Instance | None = None
    leases: int = 0
    in_transition: bool = False
    last_used_s: float = 0.0
    loads: int = 0
    failures: int = 0
    cut_short: bool = False
    recent_failure: policy.RecentFailure | None = None

    @property
    def activity(self) -> tuple[bool, bool]:
        """What the locks of the model say."""
        return self.leases > 0, self.in_transition


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


class House:
    def __init__(self, workload: Workload, clock: Clock) -> None:
        self.host = workload.host
        self.rules = workload.rules
        self.clock = clock
        self.slots = {m.model_id: Slot(m, m.known) for m in workload.models}
        self.count = Count()
        self.on_locks: Callable[[Slot], None] = lambda _: None
        """Told when the locks of a model changed."""
        self._movers = 0
        self._moved_s = 0.0
        self._moving_s = 0.0
        self._returning: list[tuple[float, int]] = []
        clock.on_step = self._check

    @property
    def moving_s(self) -> float:
        """For how long so far a model was on the move, or its memory on the way back."""
        if self._movers:
            self._moving_s += self.clock.now - self._moved_s
        self._moved_s = self.clock.now
        return self._moving_s

    def alive(self) -> list[tuple[Slot, Instance]]:
        return [(s, s.instance) for s in self.slots.values() if s.instance is not None]

    def resident(self, slot: Slot, instance: Instance, *, ours: bool) -> policy.Resident:
        """A model as the policy is told of it, by the rules of `scheduling.policy_input`."""
        moving = slot.in_transition and not ours
        if instance.ready_s is None:
            phase = Phase.STARTING if moving else Phase.ABANDONED
        else:
            phase = Phase.LEAVING if moving else Phase.READY
        return policy.Resident(
            model_id=slot.model.model_id,
            lifecycle=slot.model.lifecycle,
            phase=phase,
            in_use=slot.leases > 0,
            current=instance.version == slot.version,
            ready_at=instance.started_s if instance.ready_s is None else instance.ready_s,
            last_used_at=slot.last_used_s,
            held_bytes=slot.model.peak_bytes if slot.known else None,
            cut_short=slot.cut_short,
        )

    def need(self, slot: Slot) -> memory.Need | None:
        if self.host is None or not slot.known:
            return None
        return memory.Need(peak_bytes=slot.model.peak_bytes, basis=memory.Basis.MEASURED)

    def reading(self) -> memory.HostMemory | None:
        """A reading of the host's memory."""
        if self.host is None:
            return None
        now = self.clock.now
        self._returning = [(back_s, size) for back_s, size in self._returning if back_s > now]
        taken = sum(size for _, size in self._returning)
        taken += sum(size for begin_s, end_s, size in self.host.others if begin_s <= now < end_s)
        taken += sum(self._taken(slot, instance) for slot, instance in self.alive())
        return memory.HostMemory(
            total_bytes=self.host.total_bytes,
            available_bytes=self.host.total_bytes - taken,
            reserve_bytes=self.host.reserve_bytes,
        )

    def recovered(self, need: memory.Need, limit_s: float) -> Until:
        """Wait until there is enough for it, or no more comes back."""
        back_s = max((back_s for back_s, _ in self._returning), default=self.clock.now)
        return Until(lambda: self.has_room(need), min(back_s - self.clock.now, limit_s))

    def has_room(self, need: memory.Need) -> bool:
        reading = self.reading()
        return reading is None or memory.fits(need, reading, [])

    def _taken(self, slot: Slot, instance: Instance) -> int:
        """A load takes its memory bit by bit."""
        if instance.ready_s is not None or slot.model.load_s == 0:
            return slot.model.peak_bytes
        share = (self.clock.now - instance.started_s) / slot.model.load_s
        return int(slot.model.peak_bytes * min(1.0, share))

    # Processes

    def begin(self, slot: Slot) -> Instance:
        assert slot.instance is None, "a model was started twice"
        assert slot.in_transition, "a model was started without its lock"
        instance = slot.instance = Instance(slot.version, self.clock.now, slot.known)
        slot.loads += 1
        deadline_s = LOAD_TIMEOUT_S + self.rules.idle_timeout_s
        self.clock.after(deadline_s, lambda: self._load_pass(slot, instance))
        return instance

    def ready(self, slot: Slot, instance: Instance) -> None:
        self.count.loads += 1
        slot.failures, slot.recent_failure, slot.known = 0, None, True
        instance.ready_s = slot.last_used_s = self.clock.now
        self.clock.after(self.rules.idle_timeout_s, lambda: self._idle_pass(slot, instance))

    def stop(self, slot: Slot, task: Task | None) -> Steps:
        """Stop a model to the end, even when the task that does is cancelled meanwhile."""
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
        if self.host is not None:
            back_s = self.clock.now + self.host.recovery_s
            self._returning.append((back_s, self._taken(slot, instance)))
            self._count_movers(1)
            self.clock.at(back_s, lambda: self._count_movers(-1))
        slot.instance = None

    # Timers; what they start is a process of its own

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
        with self.move(), self.transition(slot):
            yield from self.stop(slot, None)

    # Locks, and the time in which something moves

    @contextmanager
    def transition(self, slot: Slot) -> Generator[None, None, None]:
        assert not slot.in_transition, "two transitions of one model at once"
        slot.in_transition = True
        self.on_locks(slot)
        try:
            yield
        finally:
            slot.in_transition = False
            self.on_locks(slot)

    @contextmanager
    def move(self) -> Generator[None, None, None]:
        self._count_movers(1)
        try:
            yield
        finally:
            self._count_movers(-1)

    def _count_movers(self, change: int) -> None:
        _ = self.moving_s
        self._movers += change

    def _check(self) -> None:
        """What must hold at every moment."""
        alive = self.alive()
        lifecycles = [slot.model.lifecycle for slot, _ in alive]
        assert sum(one is not Lifecycle.UTILITY for one in lifecycles) <= 1, "two main models"
        assert Lifecycle.EXCLUSIVE not in lifecycles or len(alive) == 1, "not alone"
        if self.host is not None and all(instance.known for _, instance in alive):
            promised = sum(slot.model.peak_bytes for slot, _ in alive)
            limit = self.host.total_bytes - self.host.reserve_bytes
            assert promised <= limit, "memory was promised twice"
