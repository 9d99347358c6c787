# SPDX-License-Identifier: Apache-2.0
"""The start of one model in its turn: a second look, making room, launch, and waiting.

The scheduler decides the order. Under the locks taken here, the starter reads a second snapshot,
because other processes (sparkctl, an idle pass) act too. If the model may not proceed after all,
the result is None, and the scheduler decides again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparkd.adapters.failpoints import failpoint
from sparkd.adapters.files.records import Records
from sparkd.adapters.journal.writer import NOTICE, fields
from sparkd.adapters.proc.memory import MemoryProbe
from sparkd.core.container.spec import spec_hash
from sparkd.core.errors import SparkdError, StartCrashed, StartFailed
from sparkd.core.model import AbandonedLoads, Config, Lifecycle, ModelSpec, Settings
from sparkd.core.names import COMEBACK_SERVICE, Layout, Names
from sparkd.core.observed import Instance, Snapshot
from sparkd.core.scheduling import memory, policy
from sparkd.core.telemetry.events import EventKind
from sparkd.core.telemetry.session import EndReason
from sparkd.lifecycle.deaths import Deaths
from sparkd.lifecycle.end.evictor import Evictor
from sparkd.lifecycle.leases import Leases
from sparkd.lifecycle.observer import Observer
from sparkd.lifecycle.sessions import Sessions
from sparkd.lifecycle.sleeper import Sleeper, SleepFailed
from sparkd.lifecycle.start.launcher import Launcher, SlotTaken, ended, to_the_end
from sparkd.lifecycle.start.load_watch import LoadWatch
from sparkd.lifecycle.start.memory_guard import MemoryGuard, recovered
from sparkd.lifecycle.start.presence import Presence
from sparkd.scheduling.policy_input import PolicyInputs, Queued
from sparkd.scheduling.unattended_loads import Load, UnattendedLoads

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    layout: Layout
    leases: Leases
    observer: Observer
    launcher: Launcher
    loads: LoadWatch
    policy_inputs: PolicyInputs
    probe: MemoryProbe
    records: Records
    sessions: Sessions
    evictor: Evictor
    sleeper: Sleeper
    unattended_loads: UnattendedLoads
    presence: Presence
    deaths: Deaths

    async def start_or_wake(
        self,
        config: Config,
        queued: Queued,
        ready_at_s: Mapping[str, float],
        before: Sequence[Queued],
    ) -> Instance | None:
        """Make the model run and wait until it is healthy; None if it may not proceed after all.

        The models in `before` are being brought up already; the memory they will take is reserved.
        Call with the model's transition held. Raises what `Launcher` raises, the policy's refusals,
        and SlotTaken when another model holds its locks. If cancelled before sparkd makes room for
        the model, nothing was done. After that, `abandoned_loads` decides whether a start of this
        process continues unattended or is undone.
        """
        spec = queued.spec
        snapshot = await self.observer.read(config)
        inputs = await self.policy_inputs.inputs(
            config, snapshot, [queued, *before], ready_at_s=ready_at_s, ours=spec.model_id
        )
        moving = frozenset(other.spec.model_id for other in before)
        decision = policy.decide(inputs, moving)[spec.model_id]
        if isinstance(decision, policy.Refuse):
            raise decision.error
        if isinstance(decision, policy.Wait):
            return None
        if isinstance(decision, policy.Use):
            return await self._adopt(config, spec, snapshot)
        return await self._start(config, spec, inputs, decision)

    async def tend_abandoned(self, config: Config, snapshot: Snapshot) -> None:
        """Watch the loads whose starters are gone, such as after an upgrade of the gateway."""
        if config.settings.abandoned_loads is not AbandonedLoads.FINISH:
            return
        for reading in snapshot.running():
            spec, instance = config.models.get(reading.model_id), reading.instance
            loads = instance is not None and (reading.last_used_s or 0.0) < instance.started_s
            if spec is None or instance is None or reading.in_transition or not loads:
                continue
            guard = self._guard(Names(spec.model_id), config.settings, whole=False)
            await guard.begin()
            load = Load(config=config, spec=spec, instance=instance, guard=guard)
            self.unattended_loads.take(load, self._load)

    async def _adopt(self, config: Config, spec: ModelSpec, snapshot: Snapshot) -> Instance | None:
        """Wait for an instance that runs already, whichever process started it."""
        names = Names(spec.model_id)
        instance = snapshot.models[spec.model_id].instance
        if instance is None:
            # A scope whose container is gone serves no request; end the rest and look again.
            await self.launcher.stop(names, None, spec.stop_grace_s)
            return None
        if snapshot.models[spec.model_id].asleep:
            # The process that put it to sleep or woke it was killed in the middle.
            return await self._wake(config, spec, instance)
        tended = await self.unattended_loads.hand_over(instance)
        if tended is not None:
            return await self._load(Load(config=config, spec=spec, instance=instance, guard=tended))
        loads = (snapshot.models[spec.model_id].last_used_s or 0.0) < instance.started_s
        guard = self._guard(names, config.settings, whole=False)
        watched = guard.watching(names.scope) if loads else contextlib.nullcontext()
        try:
            async with watched, self.loads.watching(instance, tell=False):
                served = self.sessions.open_session(spec.model_id)
                await self.launcher.wait_ready(
                    spec,
                    instance,
                    adopted=True,
                    served=served is not None and served.container_id == instance.container_id,
                )
        except (SlotTaken, StartCrashed):
            await self.deaths.tell(spec.model_id)
            # It was stopping, or its start failed unseen: a start by this process will show.
            return None
        await self._finalize_start(spec, instance)
        took_s = time.monotonic() - instance.started_s
        log.log(
            NOTICE,
            "model %s was found, started %.1f s ago",
            spec.model_id,
            took_s,
            extra=fields(
                EventKind.MODEL_ADOPTED, model=spec.model_id, duration_ms=round(took_s * 1000)
            ),
        )
        return instance

    async def _start(
        self, config: Config, spec: ModelSpec, inputs: policy.PolicyInput, decision: policy.Start
    ) -> Instance | None:
        evict = decision.evict
        # Check before any model is drained: this model may have waited long.
        await self.presence.require(spec)
        in_use = {resident.model_id for resident in inputs.residents if resident.in_use}
        need = inputs.queue[0].need
        async with contextlib.AsyncExitStack() as held:
            for model_id in evict:
                right = await self.evictor.right(
                    model_id, own=model_id == spec.model_id, drain=model_id in in_use
                )
                if right is None:
                    return None
                held.enter_context(right)
            with await self.leases.start():
                snapshot = await self.observer.read(config)
                if _newcomer(spec, snapshot, evict):
                    return None
                loading = {
                    r.model_id for r in inputs.residents if r.phase is policy.Phase.ABANDONED
                }
                self.policy_inputs.cut_short.update(loading.intersection(evict))
                placing = asyncio.ensure_future(self._place(config, spec, need, snapshot, decision))
                load = await self._placed(config, placing)
        if isinstance(load, Instance):
            return await self._wake(config, spec, load)
        return None if load is None else await self._load(load)

    async def _placed(
        self, config: Config, placing: asyncio.Future[Load | Instance | None]
    ) -> Load | Instance | None:
        """The outcome of `_place`; on cancellation, work that has begun is continued or undone.

        If this start does not follow, a model stopped for it was stopped in vain.
        """
        finish = config.settings.abandoned_loads is AbandonedLoads.FINISH
        try:
            await asyncio.shield(placing)
        except asyncio.CancelledError:
            if not finish:
                placing.cancel()
            await ended(placing)
            load = None if placing.cancelled() or placing.exception() else placing.result()
            if isinstance(load, Load):
                failpoint("abandoned-begun")
                self.unattended_loads.take(load, self._load)
            raise
        return placing.result()

    async def _place(
        self,
        config: Config,
        spec: ModelSpec,
        need: memory.Need | None,
        snapshot: Snapshot,
        decision: policy.Start,
    ) -> Load | Instance | None:
        """Make room and begin the load; returns the sleeping instance if it only has to be woken.

        None when there is no room after all.
        """
        for model_id in decision.evict:
            await self.evictor.make_room(
                config, snapshot, model_id, wanted=spec, sleep=model_id in decision.sleep
            )
        if decision.evict and need is not None:
            reserve = config.settings.memory_reserve_bytes
            await recovered(self.probe, need.peak_bytes + reserve)
            if not memory.fits(need, await self.probe.host(reserve), []):
                return None
        failpoint("swap-evicted")
        sleeper = _sleeper(snapshot, spec, decision.evict)
        if sleeper is not None:
            return sleeper
        arguments = await self._computed_arguments(spec, need, config.settings)
        guard = self._guard(Names(spec.model_id), config.settings)
        await guard.begin()
        instance = await self._begin(spec, arguments)
        return Load(config=config, spec=spec, instance=instance, guard=guard)

    async def _begin(self, spec: ModelSpec, arguments: tuple[str, ...]) -> Instance:
        # A start removes the container of the last run, which shows how that run ended.
        await self.deaths.tell(spec.model_id)
        try:
            return await self.launcher.begin(spec, arguments)
        except BaseException:
            if spec.lifecycle is Lifecycle.EXCLUSIVE:
                # It may lack a scope, whose end is what restarts the models stopped for it.
                await to_the_end(self.launcher.systemd.start_soon(COMEBACK_SERVICE))
            raise

    async def _load(self, load: Load) -> Instance | None:
        """Wait for a new start under the guard, and record its outcome."""
        spec, instance, guard = load.spec, load.instance, load.guard
        keep = load.config.settings.abandoned_loads is AbandonedLoads.FINISH
        try:
            async with (
                guard.watching(Names(spec.model_id).scope),
                self.loads.watching(instance, tell=True),
            ):
                await self.launcher.wait_ready(spec, instance, adopted=False, keep=keep)
        except StartFailed as error:
            failure = guard.failure(spec) or error
            self.remember_failure(spec, failure)
            raise failure from error
        except asyncio.CancelledError:
            if keep:
                self.unattended_loads.take(load, self._load)
            raise
        failpoint("ready-healthy")
        took_s = time.monotonic() - instance.started_s
        self.records.add_load(spec.model_id, took_s, await guard.peak_bytes())
        grown_bytes = await guard.grown_bytes()
        await self._finalize_start(spec, instance, load_s=took_s, grown_bytes=grown_bytes)
        log.log(
            NOTICE,
            "model %s is ready after %.1f s",
            spec.model_id,
            took_s,
            extra=fields(
                EventKind.MODEL_READY, model=spec.model_id, duration_ms=round(took_s * 1000)
            ),
        )
        return instance

    async def _wake(self, config: Config, spec: ModelSpec, instance: Instance) -> Instance | None:
        """Wake it; despite cancellation, finish if `abandoned_loads` has loads finished."""
        waking = asyncio.ensure_future(self._waken(config.settings, spec, instance))
        try:
            return await asyncio.shield(waking)
        except asyncio.CancelledError:
            if config.settings.abandoned_loads is not AbandonedLoads.FINISH:
                waking.cancel()
            await ended(waking)
            if not waking.cancelled() and waking.exception() is not None:
                log.warning("model %s did not wake: %s", spec.model_id, waking.exception())
            raise

    async def _waken(
        self, settings: Settings, spec: ModelSpec, instance: Instance
    ) -> Instance | None:
        """Wake it under the guard. If it wakes in a different state, stop it and check again."""
        names = Names(spec.model_id)
        guard = self._guard(names, settings)
        await guard.begin()
        began_s = time.monotonic()
        try:
            async with guard.watching(names.scope):
                await self.sleeper.wake(spec, instance)
        except SlotTaken:
            raise  # It stays asleep.
        except SleepFailed as error:
            await self._give_up(spec, instance, str(error))
            failure = guard.failure(spec)
            if failure is None:
                return None
            self.remember_failure(spec, failure)
            raise failure from error
        except asyncio.CancelledError:
            await self._give_up(spec, instance, "no request waits for it any more")
            raise
        except Exception as error:
            await self._give_up(spec, instance, str(error) or type(error).__name__)
            raise
        await self._finalize_start(spec, instance)
        took_s = time.monotonic() - began_s
        log.log(
            NOTICE,
            "model %s is awake after %.1f s",
            spec.model_id,
            took_s,
            extra=fields(
                EventKind.MODEL_AWAKE, model=spec.model_id, duration_ms=round(took_s * 1000)
            ),
        )
        return replace(instance, woken_s=time.monotonic())

    async def _give_up(self, spec: ModelSpec, instance: Instance, why: str) -> None:
        """Stop a model that could not be woken."""
        self.sessions.sample(spec.model_id, stopping=EndReason.WAKE_FAILED)
        stop = self.launcher.stop(Names(spec.model_id), instance.container_id, spec.stop_grace_s)
        await to_the_end(stop)
        self.sessions.end(spec.model_id, EndReason.WAKE_FAILED)
        extra = fields(EventKind.MODEL_STOPPED, model=spec.model_id, reason=EndReason.WAKE_FAILED)
        log.warning("model %s was stopped instead of woken: %s", spec.model_id, why, extra=extra)

    async def _computed_arguments(
        self, spec: ModelSpec, need: memory.Need | None, settings: Settings
    ) -> tuple[str, ...]:
        if not spec.auto_utilization or need is None:
            return ()
        host = await self.probe.host(settings.memory_reserve_bytes)
        fraction = memory.utilization(need.peak_bytes, host)
        return (memory.UTILIZATION_OPTION, f"{fraction:.2f}")

    def _guard(self, names: Names, settings: Settings, *, whole: bool = True) -> MemoryGuard:
        """A memory guard; it measures the load only if it watches the `whole` of it."""
        return MemoryGuard(
            self.probe,
            self.launcher.systemd,
            self.layout.drop_caches,
            settings,
            lambda: not whole or self.leases.others_move(names),
        )

    async def _finalize_start(
        self,
        spec: ModelSpec,
        instance: Instance,
        *,
        load_s: float | None = None,
        grown_bytes: int | None = None,
    ) -> None:
        """Finish any start: record a use, set its idle check, forget its failures.

        `grown_bytes` is the host memory that its load took, if known.
        """
        names = Names(spec.model_id)
        self.sessions.open(instance, load_s=load_s, grown_bytes=grown_bytes)
        self.leases.touch(names)
        await self.launcher.arm_idle_timer(names, spec.idle_timeout_s)
        self.records.clear_failure(spec.model_id)
        self.records.clear_comeback(spec.model_id)

    def remember_failure(self, spec: ModelSpec, error: SparkdError) -> None:
        """Make the policy refuse further starts for a while."""
        self.records.add_failed_start(spec.model_id, spec_hash(spec, self.layout), error)


def _newcomer(spec: ModelSpec, snapshot: Snapshot, evict: tuple[str, ...]) -> bool:
    """Whether another process started a model meanwhile that excludes this one."""
    lanes_only = spec.lifecycle is not Lifecycle.EXCLUSIVE
    return any(
        reading.model_id not in (*evict, spec.model_id)
        and not (lanes_only and reading.asleep and not reading.in_transition)
        and policy.exclude_each_other(
            spec.lifecycle, snapshot.lifecycles.get(reading.model_id, spec.lifecycle)
        )
        for reading in snapshot.running()
    )


def _sleeper(snapshot: Snapshot, spec: ModelSpec, evict: tuple[str, ...]) -> Instance | None:
    """The model's instance that only has to be woken."""
    reading = snapshot.models[spec.model_id]
    return reading.instance if reading.asleep and spec.model_id not in evict else None
