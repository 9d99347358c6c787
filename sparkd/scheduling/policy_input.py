# SPDX-License-Identifier: Apache-2.0
"""From a snapshot to the input of the policy: one clock, one vocabulary."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sparkd.adapters.files.records import Failure, Records
from sparkd.adapters.proc.memory import MemoryProbe
from sparkd.core.container.spec import spec_hash
from sparkd.core.errors import StartFailed
from sparkd.core.model import Config, Evict, ModelSpec
from sparkd.core.names import Layout
from sparkd.core.observed import ModelReading, Snapshot
from sparkd.core.scheduling import backoff, memory
from sparkd.core.scheduling.busy import Running
from sparkd.core.scheduling.policy import Phase, PolicyInput, RecentFailure, Resident, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A model with waiters, since a moment on the monotonic clock."""

    spec: ModelSpec
    since_s: float
    count: int
    short_since_s: float
    """Since when memory alone has been missing; the current time if it is not."""


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """Builder of policy inputs: adds memory and failure history to a reading. Read-only."""

    layout: Layout
    probe: MemoryProbe
    records: Records
    cut_short: set[str] = field(default_factory=set)
    """The models whose last load was evicted before it was ready."""

    async def inputs(
        self,
        config: Config,
        snapshot: Snapshot,
        queue: Iterable[Queued],
        *,
        ready_at_s: Mapping[str, float],
        ours: str | None = None,
    ) -> PolicyInput:
        """The policy's view; times are on the monotonic clock.

        `ready_at_s` contains the times at which models became ready, if the caller observed them.
        `ours` names a model whose transition lock the caller itself holds; that lock is ignored.
        """
        settings = config.settings
        host = await self.probe.host(settings.memory_reserve_bytes)
        queued = tuple(queue)
        holders = frozenset(h.model_id for h in snapshot.holders if h.model_id is not None)
        return PolicyInput(
            now=time.monotonic(),
            residents=tuple(
                self._resident(config, reading, ready_at_s, holders, ours=reading.model_id == ours)
                for reading in snapshot.running()
            ),
            queue=tuple(
                Waiting(
                    model_id=entry.spec.model_id,
                    lifecycle=entry.spec.lifecycle,
                    since=entry.since_s,
                    count=entry.count,
                    need=self.need(entry.spec, host),
                    short_since=entry.short_since_s,
                )
                for entry in queued
            ),
            holders=snapshot.holders,
            recent_failures={
                entry.spec.model_id: recent_failure
                for entry in queued
                if (recent_failure := self._recent_failure(entry.spec)) is not None
            },
            host=host,
            min_residency_s=settings.min_residency_s,
            max_wait_s=settings.max_wait_s,
        )

    def running(self, config: Config, snapshot: Snapshot) -> list[Running]:
        """The running models, for the refusal of a request for another model."""
        found = []
        for reading in snapshot.running():
            if reading.asleep:
                continue
            spec = config.entry(reading.model_id)
            last_used_at = reading.last_used_at or time.time()
            released_from = time.time() if reading.in_use else last_used_at
            found.append(
                Running(
                    model_id=reading.model_id,
                    state=reading.state,
                    started_at=reading.instance.started_at if reading.instance else last_used_at,
                    last_used_at=last_used_at,
                    in_use=reading.in_use,
                    pinned=spec.pinned,
                    release_at=released_from + spec.idle_timeout_s,
                )
            )
        return found

    def need(self, spec: ModelSpec, host: memory.HostMemory) -> memory.Need | None:
        """The peak memory of the model, by the best available figure; None if unknown."""
        return memory.need_of(spec, self.records.loads(spec.model_id).peak_bytes, host)

    def _resident(
        self,
        config: Config,
        reading: ModelReading,
        ready_at_s: Mapping[str, float],
        holders: frozenset[str],
        *,
        ours: bool,
    ) -> Resident:
        spec = config.models.get(reading.model_id)
        started_s = reading.instance.started_s if reading.instance else 0.0
        last_used_s = reading.last_used_s or 0.0
        # A start records a use as its last step, so a use after the start means it is ready.
        ready = last_used_s >= started_s
        moved = reading.in_transition and not ours
        if not ready:
            phase = Phase.STARTING if moved else Phase.ABANDONED
        elif reading.asleep:
            phase = Phase.STARTING if moved else _at_rest(reading.model_id, holders)
        elif moved:
            phase = Phase.LEAVING
        else:
            phase = Phase.READY
        current = self._is_current(spec, reading)
        sleeps = spec is not None and spec.evict is Evict.SLEEP
        return Resident(
            model_id=reading.model_id,
            lifecycle=config.entry(reading.model_id).lifecycle,
            phase=phase,
            in_use=reading.in_use,
            current=current,
            ready_at=ready_at_s.get(reading.model_id, started_s),
            last_used_at=last_used_s,
            held_bytes=None
            if phase is Phase.ASLEEP
            else self.records.loads(reading.model_id).peak_bytes,
            may_sleep=sleeps and current and phase is Phase.READY,
            cut_short=reading.model_id in self.cut_short,
        )

    def _is_current(self, spec: ModelSpec | None, reading: ModelReading) -> bool:
        if spec is None or reading.instance is None:
            return False
        return reading.instance.spec_hash == spec_hash(spec, self.layout)

    def _recent_failure(self, spec: ModelSpec) -> RecentFailure | None:
        failure = self.records.failure(spec.model_id)
        if (
            failure is None
            or not failure.count
            or failure.spec_hash != spec_hash(spec, self.layout)
        ):
            return None
        until_s = backoff.until(failure.at_s, failure.count)
        return RecentFailure(until=until_s, error=refusal(spec.model_id, failure))


def _at_rest(model_id: str, holders: frozenset[str]) -> Phase:
    """The phase of a model that was put to sleep or whose wake-up broke off, from its locks."""
    return Phase.ABANDONED if model_id in holders else Phase.ASLEEP


def refusal(model_id: str, failure: Failure) -> StartFailed:
    """The error for a model whose back-off has not ended."""
    remaining_s = backoff.until(failure.at_s, failure.count) - time.monotonic()
    if remaining_s == float("inf"):
        when = "not tried again automatically"
        retry_after_s = None
    else:
        when = f"tried again in {max(1, round(remaining_s))} s"
        retry_after_s = max(1, min(60, round(remaining_s)))
    times = "once" if failure.count == 1 else f"{failure.count} times in a row"
    error = StartFailed(
        f"{failure.message}; failed {times}, {when}",
        hint=f"{failure.hint}; sudo sparkctl start {model_id} tries at once",
        code=failure.code,
        retry_after_s=retry_after_s,
    )
    error.http_status = failure.http_status
    return error
