# SPDX-License-Identifier: Apache-2.0
"""Loads that continue although no request waits for them.

An unattended load holds no lock: for every other process it is a start whose starter has gone,
which may be adopted, stopped, or evicted at once. This process only keeps the memory guard on it,
and does the last steps of the start when the model becomes ready. When this process ends, the load
goes on, and the model's load timer ends one that hangs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from sparkd.adapters.failpoints import failpoint
from sparkd.core.errors import SparkdError
from sparkd.core.model import Config, ModelSpec
from sparkd.core.names import Names
from sparkd.core.observed import Instance
from sparkd.lifecycle.leases import Leases
from sparkd.lifecycle.observer import Observer
from sparkd.lifecycle.start.launcher import Launcher
from sparkd.lifecycle.start.load_watch import LoadWatch
from sparkd.lifecycle.start.memory_guard import MemoryGuard

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load in progress, and the guard that has watched the memory since it began."""

    config: Config
    spec: ModelSpec
    instance: Instance
    guard: MemoryGuard


Complete = Callable[[Load], Awaitable[Instance | None]]
"""Performs the last steps of a load that has succeeded or failed; the transition is held."""


@dataclass(slots=True)
class UnattendedLoads:
    leases: Leases
    launcher: Launcher
    observer: Observer
    loads: LoadWatch
    on_ready: list[Callable[[Instance], None]] = field(default_factory=list)
    """Callbacks for each model that became ready here, called while its transition is held."""
    _tended: dict[str, tuple[Load, asyncio.Task[None]]] = field(default_factory=dict)
    _closed: bool = False

    def take(self, load: Load, complete: Complete) -> None:
        """Begin to watch a load."""
        if self._closed:
            return
        model_id = load.spec.model_id
        task = asyncio.create_task(self._tend(load, complete))
        self._tended[model_id] = (load, task)
        task.add_done_callback(lambda done: self._forget(model_id, done))
        log.info("the load of model %s goes on, no request waits for it", model_id)

    async def hand_over(self, instance: Instance) -> MemoryGuard | None:
        """Stop tending this load for a caller that waits for it; returns its guard or None.

        Call with the transition of the model held.
        """
        tended = self._tended.get(instance.model_id)
        if tended is None or tended[0].instance.container_id != instance.container_id:
            return None
        load, task = tended
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return load.guard

    async def close(self) -> None:
        """Stop tending; the loads continue."""
        self._closed = True
        tasks = [task for _, task in self._tended.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, model_id: str, task: asyncio.Task[None]) -> None:
        tended = self._tended.get(model_id)
        if tended is not None and tended[1] is task:
            del self._tended[model_id]
        if not task.cancelled() and task.exception() is not None:
            log.error("tending model %s failed", model_id, exc_info=task.exception())

    async def _tend(self, load: Load, complete: Complete) -> None:
        instance, names = load.instance, Names(load.spec.model_id)
        async with load.guard.watching(names.scope), self.loads.watching(instance, tell=True):
            await self.launcher.until_settled(load.spec, instance)
        failpoint("tended-settled")
        with suppress(SparkdError), await self.leases.transition(names):
            # Errors of the load are already in the journal and in the records.
            if not await self._is_ours_to_complete(load):
                return
            ready = await complete(load)
            for listener in self.on_ready if ready is not None else ():
                listener(instance)

    async def _is_ours_to_complete(self, load: Load) -> bool:
        """Whether the instance still exists and no process has completed its start."""
        reading = (await self.observer.read(load.config)).models.get(load.spec.model_id)
        if reading is None:
            return False
        left = reading.instance or reading.dead
        if left is None or left.container_id != load.instance.container_id:
            return False
        return (reading.last_used_s or 0.0) < load.instance.started_s
