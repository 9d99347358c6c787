# SPDX-License-Identifier: Apache-2.0
"""A snapshot of the host's models: their processes, ages, endpoints, and the holders of locks.

Adoption is just this reading: after a crash of the daemon the same scopes, containers and locks
give the same answers to the next daemon. The reading never acts and takes no lock.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from sparkd.adapters.engine.client import EngineClient
from sparkd.adapters.files.records import Records
from sparkd.adapters.podman.client import ContainerReading, Podman
from sparkd.adapters.proc import usage
from sparkd.adapters.proc.processes import LockTable
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.container.spec import parse_endpoint
from sparkd.core.model import Config
from sparkd.core.model_state import Evidence
from sparkd.core.names import SCOPE_PATTERN, Layout, Names, model_of_scope
from sparkd.core.observed import DeadContainer, Instance, ModelReading, Snapshot
from sparkd.core.telemetry.session import Session
from sparkd.lifecycle.leases import Leases

_HEALTH_PATIENCE_S = 2.0
"""Time that a status reading waits for a model's health answer before it reports "starting"."""


@dataclass(frozen=True, slots=True)
class Observer:
    layout: Layout
    leases: Leases
    systemd: UserManager
    podman: Podman
    records: Records

    async def read(self, config: Config) -> Snapshot:
        """Read everything. Raises HostError when systemd or Podman cannot be queried."""
        units, containers = await asyncio.gather(
            self.systemd.units([SCOPE_PATTERN]), self.podman.models()
        )
        table = LockTable.read()
        running = {model for unit in units if unit.active and (model := model_of_scope(unit.name))}
        by_model = {reading.model_id: reading for reading in containers}
        ids = sorted({*config.models, *running, *by_model})
        models = {
            model_id: self._reading(
                model_id, by_model.get(model_id), table, running=model_id in running
            )
            for model_id in ids
        }
        return Snapshot(
            models=models,
            lifecycles={model_id: spec.lifecycle for model_id, spec in config.models.items()},
            holders=table.holders(self.layout.gpu_lock),
        )

    def stopped(self, model_id: str) -> ModelReading:
        """The reading of a model without any running process, without querying Podman."""
        failure = self.records.failure(model_id)
        return ModelReading(model_id=model_id, failures=failure.count if failure else 0)

    async def read_with_health(self, config: Config) -> Snapshot:
        """Like `read`, and query each running model's readiness and its next idle check."""
        snapshot = await self.read(config)
        readings = await asyncio.gather(*(self._ask(r) for r in snapshot.models.values()))
        return replace(snapshot, models={reading.model_id: reading for reading in readings})

    def _reading(
        self, model_id: str, container: ContainerReading | None, table: LockTable, *, running: bool
    ) -> ModelReading:
        names = Names(model_id)
        in_transition = table.held(self.layout.transition_lock(names), exclusive_only=True)
        instance, dead = None, None
        if running:
            # One that was killed before its start has a waiting payload that will never serve, and
            # one whose endpoint was removed cannot be reached again.
            started = container is not None and container.started_at
            instance = _instance(container) if container and started else None
            if instance and instance.endpoint.socket and not self._has_endpoint(names):
                instance = None
        elif container is not None and container.dead:
            dead = _dead(container)
        last_used_s, failure = self.leases.last_used_s(names), self.records.failure(model_id)
        return ModelReading(
            model_id=model_id,
            running=running,
            # A start records a use at its very end.
            ready=instance is not None and (last_used_s or 0.0) >= instance.started_s,
            instance=instance,
            dead=dead,
            in_use=table.held(self.layout.activity_lock(names), shared_only=True),
            in_transition=in_transition,
            asleep=instance is not None and self._asleep(instance),
            last_used_at=self.leases.last_used_at(names),
            last_used_s=last_used_s,
            failures=failure.count if failure is not None else 0,
        )

    def _has_endpoint(self, names: Names) -> bool:
        """A model creates its socket late, but its directory exists before its start."""
        return self.layout.endpoint_dir(names).is_dir()

    def _asleep(self, instance: Instance) -> bool:
        sleep_marker = self.records.sleep_marker(instance.model_id)
        return sleep_marker is not None and sleep_marker.container_id == instance.container_id

    async def _ask(self, reading: ModelReading) -> ModelReading:
        if reading.instance is None:
            return reading
        healthy, idle_check_at = await asyncio.gather(
            _healthy(reading.instance), self._idle_check_at(Names(reading.model_id))
        )
        return replace(reading, ready=healthy, idle_check_at=idle_check_at)

    async def _idle_check_at(self, names: Names) -> float | None:
        for timer in (names.idle_timer, names.load_timer):
            elapse_us = await self.systemd.next_elapse_us(timer)
            if elapse_us:
                return time.time() + elapse_us / 1_000_000 - time.monotonic()
        return None


def evidence_of_running(
    layout: Layout, records: Records, table: LockTable, session: Session | None, model_id: str
) -> Evidence:
    """The evidence about a model whose scope is active, without querying Podman or its server.

    Its session shows whether the load has finished: a start opens the session at its end.
    """
    names, sleep_marker = Names(model_id), records.sleep_marker(model_id)
    return Evidence(
        running=True,
        ready=session is not None,
        in_transition=table.held(layout.transition_lock(names), exclusive_only=True),
        in_use=table.held(layout.activity_lock(names), shared_only=True),
        asleep=bool(sleep_marker and session and sleep_marker.container_id == session.container_id),
    )


async def _healthy(instance: Instance) -> bool:
    async with EngineClient(instance.endpoint) as engine:
        return await engine.healthy(_HEALTH_PATIENCE_S)


def _instance(container: ContainerReading) -> Instance:
    age_s = usage.age_s(container.pid)
    if age_s is None:
        # It has just ended; Podman's time follows the clock as it was then.
        age_s = max(0.0, time.time() - container.started_at)
    return Instance(
        model_id=container.model_id,
        container_id=container.container_id,
        pid=container.pid,
        spec_hash=container.spec_hash,
        endpoint=parse_endpoint(container.endpoint, container.health),
        started_at=round(time.time() - age_s, 2),
        started_s=time.monotonic() - age_s,
    )


def _dead(container: ContainerReading) -> DeadContainer:
    return DeadContainer(
        container_id=container.container_id,
        exit_code=container.exit_code,
        finished_at=container.finished_at,
        oom_killed=container.oom_killed,
    )
