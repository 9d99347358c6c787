# SPDX-License-Identifier: Apache-2.0
"""Background work of a running daemon; none of it is needed for correctness.

- Leftovers of killed processes, of models and of files, are removed at the start.
- A load that an earlier gateway left under way is watched from the start on
  (`scheduling.unattended_loads`).
- A comeback that is due, but whose time no process saw, begins at the start
  (`oneshot.comeback_pass`).
- After a reload, models whose entry changed or went are stopped as soon as they are idle.
- A model that makes no step while requests are open is declared hung and killed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from sparkd.adapters.background_tasks import BackgroundTasks
from sparkd.adapters.engine.client import EngineClient
from sparkd.adapters.files.config_files import remove_abandoned
from sparkd.adapters.files.records import Records
from sparkd.adapters.journal.writer import fields
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.container.spec import spec_hash
from sparkd.core.engine.step_counters import PAGE_LIMIT_BYTES, Steps, parse_steps
from sparkd.core.errors import SparkdError
from sparkd.core.model import Config
from sparkd.core.names import COMEBACK_SERVICE, SCOPE_PATTERN, Names
from sparkd.core.observed import Instance
from sparkd.core.telemetry.events import EventKind
from sparkd.lifecycle.end.evictor import Evictor
from sparkd.lifecycle.end.idle_check import IdleCheck
from sparkd.lifecycle.leases import Leases
from sparkd.lifecycle.observer import Observer
from sparkd.scheduling.ensure import Ensurer
from sparkd.scheduling.starter import Starter

log = logging.getLogger(__name__)

_RETIRE_PAUSE_S = 0.5
_STEP_TIMEOUT_S = 5.0


class Housekeeper:
    def __init__(
        self,
        config: Callable[[], Config],
        *,
        leases: Leases,
        observer: Observer,
        systemd: UserManager,
        evictor: Evictor,
        ensurer: Ensurer,
        idle_check: IdleCheck,
        records: Records,
        starter: Starter,
    ) -> None:
        self._config = config
        self._leases = leases
        self._observer = observer
        self._systemd = systemd
        self._evictor = evictor
        self._ensurer = ensurer
        self._reaper = idle_check
        self._records = records
        self._starter = starter
        self._tasks = BackgroundTasks()
        self._steps: dict[str, tuple[Steps | None, float]] = {}

    async def close(self) -> None:
        await self._tasks.close()

    def begin(self) -> None:
        """At the start of the daemon."""
        self._tasks.once("removal of leftovers", self._sweep)
        self._tasks.once("comebacks", self._see_to_comebacks)
        self._tasks.once("loads without waiters", self._see_to_loads)

    def reloaded(self) -> None:
        """Stop models whose configuration has changed, one by one, once they are idle."""
        self._tasks.once("reload", self._retire_changed)

    async def look_for_hangs(self) -> None:
        """One look at every model in use; called now and then while requests are open."""
        table = {i.model_id: i for i in self._ensurer.instances()}
        in_use = self._leases.activity_of(table)
        for (model_id, instance), (used, _) in zip(table.items(), in_use, strict=True):
            if not used:
                self._steps.pop(model_id, None)
                continue
            await self._look_at(instance)

    async def _sweep(self) -> None:
        remove_abandoned(self._records.layout.records_dirs)
        try:
            await self._reaper.sweep(self._config())
        except SparkdError as error:
            log.warning("leftovers are not looked for: %s", error)

    async def _see_to_comebacks(self) -> None:
        if self._records.comebacks():
            try:
                await self._systemd.start_soon(COMEBACK_SERVICE)
            except SparkdError as error:
                log.warning("models that had to leave do not come back yet: %s", error)

    async def _see_to_loads(self) -> None:
        try:
            units = await self._systemd.units([SCOPE_PATTERN])
            if any(unit.active for unit in units):
                config = self._config()
                await self._starter.tend_abandoned(config, await self._observer.read(config))
        except SparkdError as error:
            log.warning("loads of an earlier gateway are not tended: %s", error)

    async def _retire_changed(self) -> None:
        try:
            snapshot = await self._observer.read(self._config())
        except SparkdError as error:
            log.warning("changed models are not looked for: %s", error)
            return
        layout = self._leases.layout
        for reading in snapshot.running():
            spec = self._config().models.get(reading.model_id)
            running = reading.instance.spec_hash if reading.instance else ""
            if spec is None or spec_hash(spec, layout) != running:
                retire = partial(self._retire, reading.model_id, running)
                self._tasks.keep(f"stop of the outdated {reading.model_id}", retire)

    async def _retire(self, model_id: str, outdated_hash: str) -> None:
        """Stop one outdated instance once idle; a newer one that took its place is left alone."""
        names = Names(model_id)
        # Locks of other processes have no events.
        while (right := self._leases.try_stop(names)) is None:  # noqa: ASYNC110
            await asyncio.sleep(_RETIRE_PAUSE_S)
        with right:
            snapshot = await self._observer.read(self._config())
            reading = snapshot.models.get(model_id)
            if reading and reading.instance and reading.instance.spec_hash == outdated_hash:
                await self._evictor.stop(self._config(), snapshot, model_id)

    async def _look_at(self, instance: Instance) -> None:
        model_id = instance.model_id
        steps = await _steps_of(instance)
        now_s = time.monotonic()
        before, since_s = self._steps.get(model_id, (None, now_s))
        if model_id not in self._steps or (steps is not None and steps != before):
            self._steps[model_id] = (steps, now_s)
            return
        if steps is not None and not steps.countable:
            return
        hang_timeout_s = self._config().settings.hang_timeout_s
        if now_s - since_s < hang_timeout_s:
            return
        log.error(
            "model %s made no step for %.0f s with requests open: killing it as hung",
            model_id,
            now_s - since_s,
            extra=fields(EventKind.MODEL_FAILED, model=model_id, reason="hung"),
        )
        del self._steps[model_id]
        self._ensurer.forget(model_id)
        await self._systemd.kill(Names(model_id).scope)


async def _steps_of(instance: Instance) -> Steps | None:
    """The step counters in the engine's metrics; None when it does not answer in time."""
    async with EngineClient(instance.endpoint) as engine:
        try:
            page = await engine.fetch(
                "/metrics", limit_bytes=PAGE_LIMIT_BYTES, timeout_s=_STEP_TIMEOUT_S
            )
        except SparkdError:
            return None
    return await asyncio.to_thread(parse_steps, page.text)
