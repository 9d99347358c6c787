# SPDX-License-Identifier: Apache-2.0
"""Tells when a running model ended without anybody of sparkd having stopped it.

The kernel says when its process is gone; who stops a model in order holds its transition lock
until all of it is gone, and tells that himself. The daemon watches, because it stays as long as
models are resident; nothing depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from functools import partial

from sparkd.adapters.host import LockTable, ProcessWatch
from sparkd.adapters.journal import Event, fields
from sparkd.adapters.podman import Podman
from sparkd.core.errors import HostError
from sparkd.core.model import Instance
from sparkd.core.names import Layout, Names
from sparkd.core.session import EndReason
from sparkd.sessions import Sessions
from sparkd.supervisor import Supervisor

log = logging.getLogger(__name__)

_RECORD_PAUSE_S = 0.5
"""What conmon takes at most, as a rule, to record an exit that the kernel has told us."""


@dataclass(frozen=True, slots=True)
class Endings:
    layout: Layout
    podman: Podman
    sessions: Sessions
    _tasks: Supervisor = field(default_factory=Supervisor)
    _watches: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    def watch(self, instance: Instance) -> None:
        """Told of every model that became ready or was found; one process is watched once."""
        if instance.pid not in self._watches:
            name = f"end of model {instance.model_id}"
            task = self._tasks.once(name, partial(self._wait, instance))
            self._watches[instance.pid] = task
            task.add_done_callback(lambda _: self._watches.pop(instance.pid, None))

    async def close(self) -> None:
        await self._tasks.close()

    async def _wait(self, instance: Instance) -> None:
        names = Names(instance.model_id)
        with contextlib.suppress(ProcessLookupError):
            watch = ProcessWatch(instance.pid)
            try:
                await watch.ended()
            finally:
                watch.close()
        lock = self.layout.transition_lock(names)
        if LockTable.read().held(lock, exclusive_only=True):
            return
        ended_at = time.time()
        self.sessions.end(instance.model_id, EndReason.ENDED, ended_at=ended_at)
        log.warning(
            "model %s ended without having been stopped",
            instance.model_id,
            extra=fields(
                Event.MODEL_ENDED,
                model=instance.model_id,
                exit_code=await self._exit_code(names),
                duration_ms=round((time.monotonic() - instance.started_s) * 1000),
            ),
        )

    async def _exit_code(self, names: Names) -> int | None:
        await asyncio.sleep(_RECORD_PAUSE_S)
        with contextlib.suppress(HostError):
            reading = await self.podman.inspect(names.container)
            if reading is not None and reading.dead:
                return reading.exit_code
        return None
