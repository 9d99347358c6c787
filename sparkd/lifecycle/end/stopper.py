# SPDX-License-Identifier: Apache-2.0
"""The stop of a model on request, after its requests or at once.

In order: take its transition, so that new requests queue behind it, wait until the running ones
have ended, stop it. At once: running requests break off with the model, and a start in progress
ends because its processes are ended, as `systemctl --user stop` of its scope would do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from sparkd.adapters.files.records import Records
from sparkd.adapters.flock import FileLock
from sparkd.adapters.journal.writer import NOTICE, fields
from sparkd.adapters.podman.client import Podman
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.model import Config
from sparkd.core.names import Names
from sparkd.core.telemetry.events import EventKind
from sparkd.core.telemetry.session import EndReason
from sparkd.lifecycle.deaths import Deaths
from sparkd.lifecycle.leases import Leases
from sparkd.lifecycle.sessions import Sessions
from sparkd.lifecycle.start.launcher import Launcher

log = logging.getLogger(__name__)

_SEIZE_PAUSE_S = 0.5
"""Longest time for a start in progress to notice that its processes were ended."""
_SCOPE_STOP_SLACK_S = 5.0


@dataclass(frozen=True, slots=True)
class Stopper:
    leases: Leases
    systemd: UserManager
    podman: Podman
    launcher: Launcher
    records: Records
    sessions: Sessions
    deaths: Deaths

    async def stop(self, config: Config, model_id: str, *, drain: bool) -> bool:
        """Stop the model, after its running requests when `drain`; return whether it existed.

        Stopping a stopped model succeeds. Cancel to stop waiting: then nothing has been done.
        Raises HostError when systemd or Podman cannot be queried.
        """
        names = Names(model_id)
        grace_s = config.entry(model_id).stop_grace_s
        # A model that is stopped on request must not come back automatically.
        self.records.clear_comeback(model_id)
        with contextlib.ExitStack() as locks:
            broke_off = False
            if drain:
                locks.enter_context(await self.leases.transition(names))
                locks.enter_context(await self.leases.drained(names))
            else:
                transition, broke_off = await self._force_lock(names, grace_s)
                locks.enter_context(transition)
                locks.enter_context(self.leases.try_drained(names) or contextlib.nullcontext())
            await self.deaths.tell(model_id)
            self.sessions.sample(model_id, stopping=EndReason.REQUESTED)
            ran = await self._end(names, grace_s, broke_off=broke_off, drain=drain)
            self.sessions.end(model_id, EndReason.REQUESTED if ran else EndReason.ENDED)
        if ran:
            log.log(
                NOTICE,
                "model %s was stopped on request",
                model_id,
                extra=fields(EventKind.MODEL_STOPPED, model=model_id, reason="asked"),
            )
        return ran

    async def _force_lock(self, names: Names, grace_s: float) -> tuple[FileLock, bool]:
        """The transition of the model, and whether a start was ended to take it."""
        broke_off = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SEIZE_PAUSE_S):
                    return await self.leases.transition(names), broke_off
            broke_off = await self._runs(names) or broke_off
            await self.systemd.stop(names.scope, timeout_s=grace_s + _SCOPE_STOP_SLACK_S)

    async def _end(self, names: Names, grace_s: float, *, broke_off: bool, drain: bool) -> bool:
        container = await self.podman.inspect(names.container)
        if await self._runs(names):
            container_id = container.container_id if container else None
            await self.launcher.stop(names, container_id, grace_s)
            return True
        kept = container is not None and drain and not broke_off
        if kept and container and await self.deaths.worth_keeping(names.model_id, container):
            # It exited earlier, and its container explains why. A stop at once removes that too.
            await self.launcher.remove_all_but_container(names)
        else:
            await self.launcher.remove(names)
        return broke_off

    async def _runs(self, names: Names) -> bool:
        return any(unit.active for unit in await self.systemd.units([names.scope]))
