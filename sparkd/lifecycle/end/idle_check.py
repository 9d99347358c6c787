# SPDX-License-Identifier: Apache-2.0
"""The idle check of one model: stop it if it has been idle for long enough, or check again later.

The model's timers start the pass, never a loop. A pass that cannot take both locks knows that the
model is in use or in transition; it never waits. systemd reruns a killed pass
(Restart=on-failure), so a running model always has a next pass.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from enum import StrEnum

from sparkd.adapters.files.records import Records
from sparkd.adapters.journal.writer import NOTICE, fields
from sparkd.adapters.podman.client import ContainerReading, Podman
from sparkd.adapters.proc import usage
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.model import Config, ModelSpec
from sparkd.core.names import SCOPE_PATTERN, Names, model_of_scope, unescape
from sparkd.core.telemetry.events import EventKind
from sparkd.core.telemetry.session import EndReason
from sparkd.lifecycle.deaths import Deaths
from sparkd.lifecycle.leases import Leases
from sparkd.lifecycle.sessions import Sessions
from sparkd.lifecycle.start.launcher import Launcher

log = logging.getLogger(__name__)


class Outcome(StrEnum):
    BUSY = "busy"
    """The model is in use or in transition."""
    USED_SINCE = "used since"
    STOPPED = "stopped"
    GONE = "gone"
    """The model was no longer running; its remains were removed."""


@dataclass(frozen=True, slots=True)
class IdleCheck:
    leases: Leases
    systemd: UserManager
    podman: Podman
    launcher: Launcher
    sessions: Sessions
    records: Records
    deaths: Deaths

    async def idle_pass(self, config: Config, model_id: str) -> Outcome:
        """Run one pass. Raises HostError when systemd or Podman cannot be queried."""
        names = Names(model_id)
        spec = config.entry(model_id)
        idle_timeout_s = spec.idle_timeout_s
        right = self.leases.try_stop(names)
        if right is None:
            await self.launcher.arm_idle_timer(names, idle_timeout_s)
            return Outcome.BUSY
        with right:
            units = await self.systemd.units([names.scope])
            container = await self.podman.inspect(names.container)
            if not any(unit.active for unit in units):
                await self._clean_up(names, container)
                return Outcome.GONE
            remaining_s = self._deadline_s(spec, container) - time.monotonic()
            idle = remaining_s <= 0
            await self.deaths.tell(model_id)
            self.sessions.sample(model_id, stopping=EndReason.IDLE if idle else None)
            if not idle:
                # A pinned model is checked again all the same: a reload may unpin it.
                await self.launcher.arm_idle_timer(names, min(remaining_s, idle_timeout_s))
                return Outcome.USED_SINCE
            container_id = container.container_id if container else None
            await self.launcher.stop(names, container_id, spec.stop_grace_s)
            self.sessions.end(model_id, EndReason.IDLE)
        log.log(
            NOTICE,
            "model %s was stopped after being idle for %g s",
            model_id,
            idle_timeout_s,
            extra=fields(EventKind.MODEL_STOPPED, model=model_id, reason="idle"),
        )
        return Outcome.STOPPED

    async def sweep(self, config: Config) -> None:
        """Remove the remains of a process that was killed while it started or stopped models.

        A start creates the endpoint directory first and a stop removes it last, so a directory
        without a running model is the sign; this check costs nothing when there is none.
        """
        left = self._endpoint_directories()
        if not left:
            return
        units = await self.systemd.units([SCOPE_PATTERN])
        running = {model_of_scope(unit.name) or "" for unit in units if unit.active}
        for model_id in left - running:
            await self.idle_pass(config, model_id)

    def _endpoint_directories(self) -> set[str]:
        try:
            return {unescape(path.name) for path in self.launcher.layout.endpoints_dir.iterdir()}
        except FileNotFoundError:
            return set()

    def _deadline_s(self, spec: ModelSpec, container: ContainerReading | None) -> float:
        """When the model may be stopped, on the monotonic clock. Only a model that became ready has
        been used since it started: until then its load timeout counts, for a start whose starter
        was killed."""
        age_s = usage.age_s(container.pid) if container else None
        started_s = 0.0 if age_s is None else time.monotonic() - age_s
        last_used_s = self.leases.last_used_s(Names(spec.model_id)) or 0.0
        if last_used_s < started_s:
            return started_s + spec.load_timeout_s
        if spec.pinned or self.records.pinned(spec.model_id):
            return float("inf")
        return last_used_s + spec.idle_timeout_s

    async def _clean_up(self, names: Names, container: ContainerReading | None) -> None:
        """Report a death, and remove its remains except a dead container that explains it."""
        await self.deaths.tell(names.model_id)
        if container is not None and await self.deaths.worth_keeping(names.model_id, container):
            await self.launcher.remove_all_but_container(names)
        else:
            await self.launcher.remove(names)
