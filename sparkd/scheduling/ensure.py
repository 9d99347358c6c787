# SPDX-License-Identifier: Apache-2.0
"""From a request for a model to a use lease on a healthy one, in whatever state the host is.

Fast path, microseconds: take the use lease, then look whether the process that was last seen
healthy still lives. With the lease held no process may stop it, so what is seen stays true.
Everything else goes through the scheduler's queue.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from sparkd.adapters.files.records import Records
from sparkd.adapters.proc.processes import ProcessWatch
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.catalog.presence import refusal
from sparkd.core.container.spec import spec_hash
from sparkd.core.http.routing import check_enabled
from sparkd.core.model import Config, Evict, ModelSpec
from sparkd.core.names import Layout, Names
from sparkd.core.observed import Instance
from sparkd.lifecycle.leases import Leases
from sparkd.lifecycle.start.presence import Presence
from sparkd.scheduling.queue import Grant, OnWait
from sparkd.scheduling.scheduler import Scheduler


@dataclass(slots=True)
class _Known:
    """An instance that was healthy once, and the kernel's word on whether it lives."""

    instance: Instance
    watch: ProcessWatch


class Ensurer:
    """Gives out grants. Keeps no truth: what it remembers is checked with the kernel each time."""

    def __init__(
        self,
        layout: Layout,
        leases: Leases,
        scheduler: Scheduler,
        *,
        records: Records,
        presence: Presence,
        systemd: UserManager,
    ) -> None:
        self._layout = layout
        self._leases = leases
        self._scheduler = scheduler
        self._records = records
        self._presence = presence
        self._systemd = systemd
        self._known: dict[str, _Known] = {}
        self._hashes: dict[str, tuple[ModelSpec, str]] = {}

    async def grant(self, config: Config, spec: ModelSpec, on_wait: OnWait | None = None) -> Grant:
        """Wait until the model is healthy and the caller has a use lease.

        Raises what `Scheduler.wait` raises, Disabled, and NotPresent before anything is done for a
        model that lacks something on this host. Cancel to stop waiting.
        """
        check_enabled(spec)
        grant = self._try_fast(spec)
        if grant is not None:
            return grant
        await self._require_present(spec)
        return await self._scheduler.wait(config, spec, on_wait)

    async def _require_present(self, spec: ModelSpec) -> None:
        """One that runs already lacks nothing that it still needs."""
        missing = await self._presence.missing(spec)
        if missing and not await self._runs(Names(spec.model_id)):
            raise refusal(spec.model_id, missing)

    async def _runs(self, names: Names) -> bool:
        if not self._layout.endpoint_dir(names).exists():
            return False
        return any(unit.active for unit in await self._systemd.units([names.scope]))

    def forget(self, model_id: str) -> None:
        """Look again next time: the server did not answer though its process lived."""
        known = self._known.pop(model_id, None)
        if known is not None:
            known.watch.close()

    def instances(self) -> list[Instance]:
        """The models that were seen healthy and whose processes live."""
        return [known.instance for known in self._known.values() if known.watch.alive()]

    def close(self) -> None:
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
        if spec.evict is Evict.SLEEP and self._records.has_sleep_marker(spec.model_id):
            lease.close()
            return None
        return Grant(lease, known.instance.endpoint)

    def _hash(self, spec: ModelSpec) -> str:
        """The spec hash, computed once an object: a request must not pay for it."""
        cached = self._hashes.get(spec.model_id)
        if cached is None or cached[0] is not spec:
            cached = self._hashes[spec.model_id] = (spec, spec_hash(spec, self._layout))
        return cached[1]

    def remember(self, instance: Instance) -> None:
        self.forget(instance.model_id)
        with contextlib.suppress(ProcessLookupError):
            self._known[instance.model_id] = _Known(instance, ProcessWatch(instance.pid))
