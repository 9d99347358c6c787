# SPDX-License-Identifier: Apache-2.0
"""The loop that serves the queue of requests whose model is not available yet.

Each turn of the loop reads a snapshot, lets `core.scheduling.policy` decide about every queued
model, and dispatches the models that may proceed (`scheduling.starter`), one task per model. Then
the loop sleeps until a change: a new request, an ended task, the release or transition of a
blocking model, or a deadline. The loop runs only while the queue has entries.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping

from sparkd.adapters.files.records import Records
from sparkd.core.errors import Busy, GpuHeld, HostError, SparkdError, Unavailable
from sparkd.core.model import Config, ModelSpec, WhenBusy
from sparkd.core.names import Names
from sparkd.core.observed import Instance, Snapshot
from sparkd.core.scheduling import policy
from sparkd.core.scheduling.busy import busy
from sparkd.core.scheduling.gpu_locks import held_by_model
from sparkd.lifecycle.leases import Leases
from sparkd.lifecycle.observer import Observer
from sparkd.lifecycle.start.launcher import SlotTaken
from sparkd.lifecycle.start.load_watch import LoadWatch
from sparkd.scheduling.policy_input import PolicyInputs, Queued
from sparkd.scheduling.queue import Entry, Grant, OnWait, Progress, give_back
from sparkd.scheduling.starter import Starter

log = logging.getLogger(__name__)

_LOOK_S = 0.05
"""The pause between looks at the locks of models in the way, while requests wait."""
_SLOW_LOOK_S = 5.0
"""The longest time between two snapshots while no change is visible."""
_FIRST_NOTICE_S = 2.0
"""Refusals before this delay keep their own HTTP status: a notice commits the response to 200."""
_NOTICE_S = (4.0, 6.0)  # Random, because simultaneous notices to many clients block the loop.
_RETRY_S = 0.5
"""The pause after a turn without effect, so that two processes do not chase each other."""

_TAKEN_MAX = 5
"""Maximum tries of one entry with its locks held by another model: 0.5, 1, 2 and 4 s apart."""

_BUSY_HINTS = {
    "busy": "ask for the model that is loaded, or set busy: wait in /etc/sparkd/sparkd.yaml",
    "queue_full": "wait, or raise queue_limit in /etc/sparkd/sparkd.yaml",
    "queue_timeout": "wait, or raise queue_timeout in /etc/sparkd/sparkd.yaml",
}


class Scheduler:
    def __init__(
        self,
        leases: Leases,
        observer: Observer,
        policy_inputs: PolicyInputs,
        starter: Starter,
        *,
        records: Records,
        loads: LoadWatch,
    ) -> None:
        self._leases = leases
        self._observer = observer
        self._policy_inputs = policy_inputs
        self._starter = starter
        self._records = records
        self._loads = loads
        self._entries: dict[str, Entry] = {}
        self._ready_at_s: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._seen = Snapshot(models={}, lifecycles={})
        self.on_started: list[Callable[[Instance], None]] = []
        """Callbacks for each model that became ready."""
        self.on_left: list[Callable[[str, float], None]] = []
        """Callbacks for each request that leaves the queue, served or not: model, waiting time."""

    def queue(self) -> Mapping[str, Entry]:
        """The current entries by model, for status readings."""
        return self._entries

    def is_in_the_way(self, model_id: str) -> bool:
        """Whether this or another process waits for the end of the model's open responses."""
        if any(model_id in entry.in_the_way for entry in self._entries.values()):
            return True
        ((_, in_transition),) = self._leases.activity_of((model_id,))
        return in_transition

    async def wait(self, config: Config, spec: ModelSpec, on_wait: OnWait | None = None) -> Grant:
        """Join the queue and wait for a grant; `on_wait` is called every few seconds meanwhile.

        Raises Busy when the queue is full or the wait is too long, and any error that ends the
        start. Cancel to leave the queue. The setting `abandoned_loads` then decides whether a load
        that has begun continues without waiters or is undone.
        """
        settings = config.settings
        if sum(len(entry.waiters) for entry in self._entries.values()) >= settings.queue_limit:
            raise self._busy(
                config, spec, f"{settings.queue_limit} requests wait already", "queue_full"
            )
        entry, waiter = self._join(config, spec)
        told = False
        try:
            async with asyncio.timeout(settings.queue_timeout_s):
                await self._told(entry, waiter, on_wait)
            told = True
            return waiter.result()
        except TimeoutError:
            waited = f"it was not ready within {settings.queue_timeout_s:g} s, {entry.why}"
            raise self._busy(config, spec, waited, "queue_timeout") from None
        finally:
            if not told:
                give_back(waiter)
            waited_s = time.monotonic() - entry.waiters.pop(waiter)
            for listener in self.on_left:
                listener(spec.model_id, waited_s)
            if not entry.waiters:
                self._abandon(entry)

    async def close(self) -> None:
        """End all waits, and wait until the tasks have taken back their work."""
        self._closed = True
        for entry in list(self._entries.values()):
            entry.fail(Unavailable("sparkd is stopping", hint="send the request again"))
        tasks = [*self._tasks, *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _join(self, config: Config, spec: ModelSpec) -> tuple[Entry, asyncio.Future[Grant]]:
        if self._closed:
            raise Unavailable("sparkd is stopping", hint="send the request again")
        entry = self._entries.get(spec.model_id)
        if entry is None:
            entry = self._entries[spec.model_id] = Entry(config, spec)
        elif entry.task is None:
            # A reload may have changed the model while others waited: all get the new spec.
            entry.config, entry.spec = config, spec
        waiter: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        entry.waiters[waiter] = time.monotonic()
        self._wake.set()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._serve())
        return entry, waiter

    async def _told(
        self, entry: Entry, waiter: asyncio.Future[Grant], on_wait: OnWait | None
    ) -> None:
        """Wait for the waiter's result, and send progress notices to the client."""
        pause_s: float | None = _FIRST_NOTICE_S if on_wait else None
        while on_wait is not None:
            await asyncio.wait([waiter], timeout=pause_s)
            if waiter.done():
                return
            await on_wait(self._progress(entry, entry.waiters[waiter]))
            pause_s = random.uniform(*_NOTICE_S)
        await asyncio.wait([waiter])

    def _progress(self, entry: Entry, since_s: float) -> Progress:
        loading = entry.task is not None
        return Progress(
            model_id=entry.spec.model_id,
            loading=loading,
            why=entry.why,
            elapsed_s=time.monotonic() - (entry.task_since_s if loading else since_s),
            typical_s=self._records.loads(entry.spec.model_id).typical_s,
            load=self._loads.progress(entry.spec.model_id),
        )

    def _abandon(self, entry: Entry) -> None:
        """Remove an entry without waiters; the starter continues its load or undoes it."""
        if self._entries.get(entry.spec.model_id) is entry:
            del self._entries[entry.spec.model_id]
            if entry.told is not None:
                entry.tell_end()
        if entry.task is not None:
            entry.task.cancel()
        self._wake.set()

    async def _serve(self) -> None:
        """Run turns until the queue is empty."""
        while self._entries:
            self._wake.clear()
            config = next(reversed(self._entries.values())).config
            try:
                waits = await self._turn(config)
            except HostError as error:
                waits = []
                self._fail_waiting(error)
            except Exception as error:
                # A defect must not leave requests waiting for a loop that has ended.
                log.exception("the scheduler failed")
                waits = []
                self._fail_waiting(SparkdError(f"the scheduler failed: {type(error).__name__}"))
            try:
                await self._until_change(waits)
            except Exception:
                log.exception("the scheduler could not wait for a change")
                await asyncio.sleep(_RETRY_S)

    def _fail_waiting(self, error: SparkdError) -> None:
        for entry in list(self._entries.values()):
            if entry.task is None:
                entry.fail(error)

    async def _turn(self, config: Config) -> list[policy.Wait]:
        """Decide about all entries once; the resulting waits."""
        snapshot = self._seen = await self._observer.read(config)
        entries = dict(self._entries)
        inputs = await self._policy_inputs.inputs(
            config,
            snapshot,
            [entry.queued for entry in entries.values()],
            ready_at_s=self._ready_at_s,
        )
        moving = frozenset(model_id for model_id, entry in entries.items() if entry.task)
        waits = []
        for model_id, decision in policy.decide(inputs, moving).items():
            entry = entries[model_id]
            if entry.task is None and entry.open:
                wait = self._act(entry, decision)
                waits += [wait] if wait else []
        return waits

    def _act(self, entry: Entry, decision: policy.Decision) -> policy.Wait | None:
        short = decision if isinstance(decision, policy.Wait) and decision.short else None
        blockers = short.blockers if short else None
        if blockers is None or blockers != entry.short:
            entry.short, entry.short_since_s = blockers, time.monotonic()
        match decision:
            case policy.Wait(_, blockers):
                entry.in_the_way = blockers
            case policy.Start(evict):
                entry.in_the_way = evict
            case _:
                entry.in_the_way = ()
        rejecting = entry.config.settings.busy is WhenBusy.REJECT
        match decision:
            case policy.Refuse(error):
                entry.fail(error)
            case policy.Wait(why) if rejecting:
                entry.fail(self._busy(entry.config, entry.spec, why, "busy"))
            case policy.Start(evict) if rejecting and set(evict) - {entry.spec.model_id}:
                loaded = f"{evict[0]} is loaded"
                entry.fail(self._busy(entry.config, entry.spec, loaded, "busy"))
            case policy.Wait(why):
                entry.why = why
                entry.tell()
                return decision
            case _ if time.monotonic() < entry.not_before_s:
                return policy.Wait("looking again", (), entry.not_before_s)
            case _:
                self._dispatch(entry)
        return None

    def _busy(self, config: Config, spec: ModelSpec, why: str, code: str) -> Busy:
        """The refusal of a request, based on the last snapshot."""
        running = self._policy_inputs.running(config, self._seen)
        return busy(spec.model_id, why, running, time.time(), code=code, hint=_BUSY_HINTS[code])

    def _dispatch(self, entry: Entry) -> None:
        entry.why = "loading"
        entry.tell()
        entry.task_since_s = time.monotonic()
        before = [other.queued for other in self._entries.values() if other.task is not None]
        entry.task = asyncio.create_task(self._start_or_wake(entry, before))
        self._tasks.add(entry.task)
        entry.task.add_done_callback(self._tasks.discard)

    async def _start_or_wake(self, entry: Entry, before: list[Queued]) -> None:
        """Serve one entry: bring its model up, lend it to each waiter, release the transition.

        The entries in `before` were dispatched earlier.
        """
        names = Names(entry.spec.model_id)
        try:
            with await self._leases.transition(names):
                instance = await self._starter.start_or_wake(
                    entry.config, entry.queued, self._ready_at_s, before
                )
                if instance is None:
                    entry.not_before_s = time.monotonic() + _RETRY_S
                    return
                self.note_ready(instance)
                # With the transition still held no process can stop it before its waiters have it.
                self._lend(entry, instance)
        except SlotTaken as error:
            self._put_off(entry, error)
        except SparkdError as error:
            entry.fail(error)
        except Exception as error:
            log.exception("start of model %s broke off", names.model_id)
            entry.fail(SparkdError(f"start of {names.model_id!r} broke off: {error!r}"))
        finally:
            entry.task = None
            self._wake.set()

    def _put_off(self, entry: Entry, taken: SlotTaken) -> None:
        """Retry after a pause that doubles; after a few tries, refuse and name the holder.

        If containers were started in vain, later requests are refused without a start.
        """
        entry.taken += 1
        if entry.taken < _TAKEN_MAX:
            entry.not_before_s = time.monotonic() + _RETRY_S * (1 << (entry.taken - 1))
            return
        error = held_by_model(entry.spec.model_id, taken.holder)
        log.warning("%s", error.message)
        if taken.started:
            # Later refusals repeat this text to any client.
            discreet = GpuHeld(error.discreet, hint=error.hint)
            self._starter.remember_failure(entry.spec, discreet)
        entry.fail(error)

    def note_ready(self, instance: Instance) -> None:
        """Record when the model became ready; finding it again does not restart its residency."""
        now_s = time.monotonic()
        started_s = instance.woken_s or instance.started_s
        if self._ready_at_s.get(instance.model_id, started_s) <= started_s:
            self._ready_at_s[instance.model_id] = now_s
        self._policy_inputs.cut_short.discard(instance.model_id)
        for listener in self.on_started:
            listener(instance)

    def _lend(self, entry: Entry, instance: Instance) -> None:
        names = Names(entry.spec.model_id)
        now_s = time.monotonic()
        for waiter, since_s in entry.waiters.items():
            if not waiter.done():
                lease = self._leases.use_in_transition(names)
                sent_off_s = max(since_s, entry.task_since_s)
                waited_s, load_s = sent_off_s - since_s, now_s - sent_off_s
                waiter.set_result(Grant(lease, instance.endpoint, waited_s, load_s))

    async def _until_change(self, waits: list[policy.Wait]) -> None:
        """Sleep until the next turn may decide differently from the last one."""
        blockers = sorted({model_id for wait in waits for model_id in wait.blockers})
        until_s = min((w.until for w in waits if w.until is not None), default=float("inf"))
        if waits:
            until_s = min(until_s, time.monotonic() + _SLOW_LOOK_S)
        before = self._leases.activity_of(blockers)
        while (remaining_s := until_s - time.monotonic()) > 0:
            pause_s = min(_LOOK_S, remaining_s) if waits else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
                return
            if self._leases.activity_of(blockers) != before:
                return
