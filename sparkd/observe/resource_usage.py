# SPDX-License-Identifier: Apache-2.0
"""The resource use of running models at a moment: one cheap reading, made repeatedly.

Asks the user manager, locks and /proc only: no Podman, no engine, no gateway.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sparkd.adapters.files.records import Records
from sparkd.adapters.proc import usage
from sparkd.adapters.proc.cgroups import cgroup_pids
from sparkd.adapters.proc.memory import MemoryProbe
from sparkd.adapters.proc.processes import LockTable
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.model_state import State, describe
from sparkd.core.names import SCOPE_PATTERN, Layout, Names, model_of_scope
from sparkd.core.scheduling.memory import HostMemory
from sparkd.lifecycle.leases import Leases
from sparkd.lifecycle.observer import evidence_of_running
from sparkd.lifecycle.sessions import Sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """One running model."""

    model_id: str
    state: State
    requests: int
    cpu_s: float
    """All CPU time of its processes so far."""
    cpu_percent: float | None = None
    """Of one core, since the reading before; None in the first one."""
    memory_bytes: int
    """What it takes from the host; until it is ready, what its processes have."""
    processes: int
    up_s: float | None = None
    idle_s: float | None = None
    """Since its last use; None while it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSnapshot:
    at_s: float
    """Monotonic."""
    rows: tuple[ModelUsage, ...]
    memory: HostMemory
    holders: tuple[str, ...]
    """Who holds the GPU lock: models, and the commands of other programs."""


@dataclass(frozen=True, slots=True)
class UsageReader:
    layout: Layout
    systemd: UserManager
    sessions: Sessions
    leases: Leases
    records: Records
    probe: MemoryProbe

    async def read(self, before: UsageSnapshot | None, reserve_bytes: int) -> UsageSnapshot:
        """One reading. Raises HostError when the user manager cannot be asked."""
        units = await self.systemd.units([SCOPE_PATTERN])
        memory = await self.probe.host(reserve_bytes)
        table, at_s = LockTable.read(), time.monotonic()
        earlier = {row.model_id: row for row in before.rows} if before else {}
        past_s = at_s - before.at_s if before else 0.0
        rows = []
        for unit in units:
            model_id = model_of_scope(unit.name)
            if unit.active and model_id is not None:
                pid = await self._pid(model_id, unit.name)
                rows.append(self._row(model_id, pid, table, earlier.get(model_id), past_s))
        holders = table.holders(self.layout.gpu_lock)
        return UsageSnapshot(
            at_s=at_s,
            rows=tuple(sorted(rows, key=lambda row: row.model_id)),
            memory=memory,
            holders=tuple(holder.model_id or holder.command for holder in holders),
        )

    async def _pid(self, model_id: str, scope: str) -> int | None:
        session_stats = self.sessions.session_stats(model_id)
        if session_stats is not None and session_stats.running is not None:
            return session_stats.running.pid
        group = await self.systemd.control_group(scope)
        return next(iter(cgroup_pids(group)), None) if group else None

    def _row(
        self,
        model_id: str,
        pid: int | None,
        table: LockTable,
        before: ModelUsage | None,
        past_s: float,
    ) -> ModelUsage:
        names, now = Names(model_id), time.time()
        used = usage.usage(pid) if pid is not None else usage.Usage()
        session_stats = self.sessions.session_stats(model_id)
        session = session_stats.running if session_stats is not None else None
        activity = self.layout.activity_lock(names)
        busy = table.held(activity, shared_only=True)
        last_used_s = self.leases.last_used_s(names)
        percent = None
        if before is not None and past_s > 0:
            percent = max(0.0, 100 * (used.cpu_s - before.cpu_s) / past_s)
        return ModelUsage(
            model_id=model_id,
            state=describe(
                evidence_of_running(self.layout, self.records, table, session, model_id)
            ),
            requests=table.count(activity) if busy else 0,
            cpu_s=used.cpu_s,
            cpu_percent=percent,
            memory_bytes=session.taken_bytes(used.memory_bytes) if session else used.memory_bytes,
            processes=used.processes,
            up_s=now - session.started_at if session else None,
            idle_s=time.monotonic() - last_used_s if session and last_used_s and not busy else None,
        )
