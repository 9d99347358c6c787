# SPDX-License-Identifier: Apache-2.0
"""Detection of models that exit, by their processes, so that `lifecycle.deaths` reports at once.

The gateway watches because it runs as long as models do. Nothing depends on it: an idle pass, a
stop or the next start reports an exit that no gateway saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from functools import partial

from sparkd.adapters.background_tasks import BackgroundTasks
from sparkd.adapters.proc.processes import ProcessWatch
from sparkd.core.errors import UpstreamLost
from sparkd.core.observed import Instance
from sparkd.lifecycle.deaths import Deaths

_DEATH_NOTICE_S = 1.0
"""Time within which a process exits if its death broke an answer off; later, it did not die."""
_TELLING_S = 12.0
"""Longest wait of a client for the reason: the exit record and the journal readings."""
_FRESH_S = 30.0


@dataclass(frozen=True, slots=True)
class ExitWatch:
    deaths: Deaths
    _tasks: BackgroundTasks = field(default_factory=BackgroundTasks)
    _watches: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _runs: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = field(default_factory=dict)
    """The last run of each model: set once its process has exited, done once that was reported."""

    def watch(self, instance: Instance) -> None:
        """Watch a model that became ready or was found; each process is watched once."""
        if instance.pid not in self._watches:
            ended = asyncio.Event()
            name = f"end of model {instance.model_id}"
            task = self._tasks.once(name, partial(self._wait, instance, ended))
            self._runs[instance.model_id] = ended, task
            self._watches[instance.pid] = task
            task.add_done_callback(lambda _: self._watches.pop(instance.pid, None))

    async def close(self) -> None:
        await self._tasks.close()

    async def explain(self, model_id: str, error: UpstreamLost) -> None:
        """Add the reason for the model's death, if it died, to the error of a broken answer."""
        run = self._runs.get(model_id)
        if run is None:
            return
        ended, told = run
        try:
            async with asyncio.timeout(_DEATH_NOTICE_S):
                await ended.wait()
        except TimeoutError:
            return
        await asyncio.wait({told}, timeout=_TELLING_S)
        death = self.deaths.last.get(model_id)
        if death is not None and time.monotonic() - death.at_s < _FRESH_S:
            error.discreet = f"{error.message}; {death.discreet}"
            error.message = f"{error.message}; {death.message}"

    async def _wait(self, instance: Instance, ended: asyncio.Event) -> None:
        with contextlib.suppress(ProcessLookupError):
            watch = ProcessWatch(instance.pid)
            try:
                await watch.ended()
            finally:
                watch.close()
        ended.set()
        await self.deaths.tell(instance.model_id)
