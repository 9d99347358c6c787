# SPDX-License-Identifier: Apache-2.0
"""From "I want model X" to a use lease on a healthy X, whatever state the world is in.

Fast path, microseconds: take the use lease, then look whether the process that was last seen
healthy still lives. With the lease held nobody may stop it, so what is seen stays true.

Slow path, one flight a model shared by all who wait for it: take X.transition, look, decide
(`core.policy`), act, wait until healthy, and hand every waiter its lease before the transition is
released, so that nobody can stop the model in between. A flight that nobody waits for any more is
cancelled, and its start with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import assert_never

from sparkd.adapters.flock import FileLock
from sparkd.adapters.host import ProcessWatch
from sparkd.adapters.journal import NOTICE, Event, fields
from sparkd.core import policy
from sparkd.core.containerspec import spec_hash
from sparkd.core.errors import SparkdError, Unavailable
from sparkd.core.model import Config, Endpoint, Instance, ModelSpec, World
from sparkd.core.names import Layout, Names
from sparkd.launch import LaneTaken, Launcher
from sparkd.leases import Leases, StopRight, UseLease
from sparkd.world import WorldReader

log = logging.getLogger(__name__)

_BUSY_PAUSE_FIRST_S = 0.02
_BUSY_PAUSE_LAST_S = 0.25


@dataclass(frozen=True, slots=True)
class Grant:
    """A healthy model and the right to use it; close the lease when done."""

    lease: UseLease
    endpoint: Endpoint


@dataclass(slots=True)
class _Known:
    """An instance that was healthy once, and the kernel's word on whether it lives."""

    instance: Instance
    watch: ProcessWatch


@dataclass(slots=True)
class _Flight:
    """One way through the slow path, and everybody who waits for it."""

    task: asyncio.Task[None] | None = None
    waiters: set[asyncio.Future[Grant]] = field(default_factory=set)


class Ensurer:
    """Gives out grants. Keeps no truth: what it remembers is checked with the kernel each time."""

    def __init__(
        self, layout: Layout, leases: Leases, launcher: Launcher, world: WorldReader
    ) -> None:
        self._layout = layout
        self._leases = leases
        self._launcher = launcher
        self._world = world
        self._known: dict[str, _Known] = {}
        self._flights: dict[str, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hashes: dict[str, tuple[ModelSpec, str]] = {}

    async def grant(self, config: Config, spec: ModelSpec) -> Grant:
        """Wait until the model is healthy and lent to the caller.

        Raises what `Launcher` raises, or GpuHeld. Cancel to stop waiting.
        """
        grant = self._try_fast(spec)
        return grant if grant is not None else await self._wait(config, spec)

    def forget(self, model_id: str) -> None:
        """Look anew next time: the server did not answer though its process lived."""
        known = self._known.pop(model_id, None)
        if known is not None:
            known.watch.close()

    def watches(self) -> list[ProcessWatch]:
        """The processes of the models that were last seen running."""
        return [known.watch for known in self._known.values()]

    async def close(self) -> None:
        """Cancel every flight and wait for what it takes back."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for model_id in list(self._known):
            self.forget(model_id)

    def _try_fast(self, spec: ModelSpec) -> Grant | None:
        known = self._known.get(spec.model_id)
        if known is None or known.instance.spec_hash != self._hash(spec):
            return None
        lease = self._leases.try_use(Names(spec.model_id))
        if lease is None:
            return None
        if not known.watch.alive():
            lease.close()
            self.forget(spec.model_id)
            return None
        return Grant(lease, known.instance.endpoint)

    def _hash(self, spec: ModelSpec) -> str:
        """The spec hash, computed once an object: a request must not pay for it."""
        cached = self._hashes.get(spec.model_id)
        if cached is None or cached[0] is not spec:
            cached = self._hashes[spec.model_id] = (spec, spec_hash(spec, self._layout))
        return cached[1]

    async def _wait(self, config: Config, spec: ModelSpec) -> Grant:
        flight = self._flights.get(spec.model_id)
        if flight is None:
            flight = self._flights[spec.model_id] = _Flight()
            flight.task = asyncio.create_task(self._fly(config, spec, flight))
            self._tasks.add(flight.task)
            flight.task.add_done_callback(self._tasks.discard)
        waiter: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        flight.waiters.add(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().lease.close()
            raise
        finally:
            flight.waiters.discard(waiter)
            if not flight.waiters:
                self._abandon(spec.model_id, flight)

    def _abandon(self, model_id: str, flight: _Flight) -> None:
        """Nobody waits any more; who comes now gets a flight of its own, behind this one's end."""
        if self._flights.get(model_id) is flight:
            del self._flights[model_id]
        if flight.task is not None:
            flight.task.cancel()

    async def _fly(self, config: Config, spec: ModelSpec, flight: _Flight) -> None:
        names = Names(spec.model_id)
        try:
            with await self._leases.transition(names):
                instance = await self._bring_up(config, spec)
                self._remember(instance)
                for waiter in flight.waiters:
                    if not waiter.done():
                        lease = self._leases.use_in_transition(names)
                        waiter.set_result(Grant(lease, instance.endpoint))
        except SparkdError as error:
            _fail(flight.waiters, error)
        except Exception as error:
            log.exception("start of model %s broke off", spec.model_id)
            _fail(flight.waiters, SparkdError(f"start of {spec.model_id!r} broke off: {error!r}"))
        finally:
            if self._flights.get(spec.model_id) is flight:
                del self._flights[spec.model_id]
            _fail(flight.waiters, Unavailable("sparkd is stopping", hint="send it again"))

    async def _bring_up(self, config: Config, spec: ModelSpec) -> Instance:
        """A healthy instance. Call with the model's transition held exclusively."""
        names = Names(spec.model_id)
        while True:
            instance, fresh = await self._running(config, spec)
            try:
                await self._launcher.wait_ready(spec, instance, adopted=not fresh)
            except LaneTaken:
                continue
            self._leases.touch(names)
            await self._launcher.arm_idle_timer(names, spec.idle_timeout_s)
            _log_ready(instance, fresh=fresh)
            return instance

    async def _running(self, config: Config, spec: ModelSpec) -> tuple[Instance, bool]:
        """An instance whose process runs, and whether we started it."""
        while True:
            with await self._leases.start():
                world = await self._world.read(config)
                decision = policy.decide(world, spec.model_id, self._hash(spec))
                match decision:
                    case policy.Use(instance):
                        return instance, False
                    case policy.Refuse(error):
                        raise error
                    case policy.Start(evict):
                        if await self._make_room(config, spec, world, evict):
                            return await self._launcher.begin(spec), True
                    case _:
                        assert_never(decision)
            await self._until_free(evict, spec.model_id)

    async def _make_room(
        self, config: Config, spec: ModelSpec, world: World, evict: tuple[str, ...]
    ) -> bool:
        """Stop these models if nobody uses any of them; False, and all go on, otherwise."""
        with contextlib.ExitStack() as rights:
            for model_id in evict:
                right = self._right_to_stop(model_id, own=model_id == spec.model_id)
                if right is None:
                    return False
                rights.enter_context(right)
            for model_id in evict:
                await self._evict(config, world, model_id, wanted=spec.model_id)
        return True

    def _right_to_stop(self, model_id: str, *, own: bool) -> StopRight | FileLock | None:
        names = Names(model_id)
        # Our own transition is held already; an old instance of the wanted model only drains.
        return self._leases.try_drained(names) if own else self._leases.try_stop(names)

    async def _evict(self, config: Config, world: World, model_id: str, *, wanted: str) -> None:
        reading = world.models[model_id]
        spec = config.models.get(model_id)
        grace_s = spec.stop_grace_s if spec else config.settings.stop_grace_s
        container_id = reading.instance.container_id if reading.instance else None
        self.forget(model_id)
        await self._launcher.stop(Names(model_id), container_id, grace_s)
        log.log(
            NOTICE,
            "model %s was stopped to make room for %s",
            model_id,
            wanted,
            extra=fields(Event.MODEL_STOPPED, model=model_id, reason="evicted", wanted=wanted),
        )

    async def _until_free(self, evict: tuple[str, ...], wanted: str) -> None:
        """Wait until nobody uses or moves any of these models; the world is read again then."""
        pause_s = _BUSY_PAUSE_FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(_BUSY_PAUSE_LAST_S, pause_s * 1.5)
            if not self._leases.any_busy([Names(m) for m in evict if m != wanted]):
                return

    def _remember(self, instance: Instance) -> None:
        self.forget(instance.model_id)
        with contextlib.suppress(ProcessLookupError):
            self._known[instance.model_id] = _Known(instance, ProcessWatch(instance.pid))


def _fail(waiters: set[asyncio.Future[Grant]], error: SparkdError) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)


def _log_ready(instance: Instance, *, fresh: bool) -> None:
    took_s = time.time() - instance.started_at
    event = Event.MODEL_READY if fresh else Event.MODEL_ADOPTED
    text = "is ready after" if fresh else "was found running, started"
    log.log(
        NOTICE,
        "model %s %s %.1f s%s",
        instance.model_id,
        text,
        took_s,
        "" if fresh else " ago",
        extra=fields(event, model=instance.model_id, duration_ms=round(took_s * 1000)),
    )
