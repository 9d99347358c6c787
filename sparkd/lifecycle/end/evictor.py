# SPDX-License-Identifier: Apache-2.0
"""Eviction of a model, for another one or because its entry changed: by a stop or by sleep."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sparkd.adapters.files.records import Records
from sparkd.adapters.flock import FileLock
from sparkd.adapters.journal.writer import NOTICE, fields
from sparkd.core.model import Config, Lifecycle, ModelSpec
from sparkd.core.names import Names
from sparkd.core.observed import Snapshot
from sparkd.core.telemetry.events import EventKind
from sparkd.core.telemetry.session import EndReason
from sparkd.lifecycle.deaths import Deaths
from sparkd.lifecycle.leases import ExclusiveHold, Leases
from sparkd.lifecycle.sessions import Sessions
from sparkd.lifecycle.sleeper import Sleeper
from sparkd.lifecycle.start.launcher import Launcher, to_the_end

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evictor:
    leases: Leases
    launcher: Launcher
    records: Records
    sessions: Sessions
    sleeper: Sleeper
    deaths: Deaths

    async def right(
        self, model_id: str, *, own: bool, drain: bool
    ) -> ExclusiveHold | FileLock | None:
        """Both locks of a victim: wait for its uses to end when `drain`, else None if in use.

        The caller already holds the transition of the wanted model: of that one take only activity.
        """
        names = Names(model_id)
        if own:
            return self.leases.try_drained(names)
        return await self.leases.drain(names) if drain else self.leases.try_stop(names)

    async def make_room(
        self, config: Config, snapshot: Snapshot, model_id: str, *, wanted: ModelSpec, sleep: bool
    ) -> None:
        """Evict the model for the wanted one: put it to `sleep` where that works, else stop it.

        Call with its `right` held.
        """
        if _comes_back(config, model_id, wanted):
            self.records.add_comeback(model_id, wanted.model_id)
        instance = snapshot.models[model_id].instance if sleep else None
        if instance is not None:
            self.sessions.sample(model_id)
            if await self.sleeper.put_to_sleep(
                config.models[model_id], instance, wanted=wanted.model_id
            ):
                return
        await self.stop(config, snapshot, model_id, wanted=wanted.model_id)

    async def stop(
        self, config: Config, snapshot: Snapshot, model_id: str, *, wanted: str | None = None
    ) -> None:
        """Stop a model, for the wanted one or because its entry changed.

        Call with its transition and activity held exclusively.
        """
        reading = snapshot.models.get(model_id)
        grace_s = config.entry(model_id).stop_grace_s
        container_id = reading.instance.container_id if reading and reading.instance else None
        reason = EndReason.EVICTED if wanted else EndReason.RECONFIGURED
        why = f"to make room for {wanted}" if wanted else "because its configuration changed"
        await self.deaths.tell(model_id)
        self.sessions.sample(model_id, stopping=reason)
        # A model that is half stopped would serve no request.
        await to_the_end(self.launcher.stop(Names(model_id), container_id, grace_s))
        self.sessions.end(model_id, reason)
        log.log(
            NOTICE,
            "model %s was stopped %s",
            model_id,
            "to be started again" if wanted == model_id else why,
            extra=fields(EventKind.MODEL_STOPPED, model=model_id, reason=reason, wanted=wanted),
        )


def _comes_back(config: Config, model_id: str, wanted: ModelSpec) -> bool:
    """Whether an evicted model is to be loaded again once the wanted one has left."""
    spec = config.models.get(model_id)
    utility = spec is not None and spec.lifecycle is Lifecycle.UTILITY
    return utility and wanted.lifecycle is Lifecycle.EXCLUSIVE
