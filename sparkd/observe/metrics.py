# SPDX-License-Identifier: Apache-2.0
"""The /metrics page: counters of the gateway, readings of the host, and the engines' own pages.

Looks only: it wakes no model, holds none, and asks neither Podman nor an engine for longer than a
moment. What lasts longer than the gateway (loads, stops, run times) comes from the statistics on
disk, so it continues, whichever process started or stopped a model.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from sparkd.adapters.engine.client import EngineClient
from sparkd.adapters.files.config_files import write_atomically
from sparkd.adapters.proc import usage
from sparkd.adapters.proc.processes import LockTable
from sparkd.core.access.quota import Meters
from sparkd.core.engine.metrics_page import merged
from sparkd.core.engine.step_counters import PAGE_LIMIT_BYTES
from sparkd.core.errors import HostError, SparkdError
from sparkd.core.model import Config
from sparkd.core.model_state import Evidence, State, describe
from sparkd.core.names import SCOPE_PATTERN, Layout, Names, model_of_scope
from sparkd.core.observed import Endpoint
from sparkd.core.telemetry.metrics_table import FAMILIES, Samples, Value
from sparkd.core.telemetry.session import EndReason
from sparkd.core.telemetry.traffic import Traffic
from sparkd.lifecycle.observer import evidence_of_running
from sparkd.lifecycle.sessions import SessionStats
from sparkd.runtime import Runtime

log = logging.getLogger(__name__)

_ENGINE_TIMEOUT_S = 1.0
"""A page of vLLM takes some ten milliseconds; one that hangs must not hold up the scrape."""

Rows = list[tuple[tuple[str, ...], Value]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What is looked at for one page."""

    running: frozenset[str]
    pages: dict[str, str]
    session_stats_by_model: dict[str, SessionStats]
    table: LockTable
    memory: dict[str, int]


def restore(layout: Layout, traffic: Traffic) -> None:
    """Go on from what the last gateway counted since the boot, and count this start."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        traffic.restore(json.loads(_kept_file(layout).read_bytes()))
    traffic.add("sparkd_daemon_starts_total", ())
    keep(layout, traffic)


def keep(layout: Layout, traffic: Traffic) -> None:
    """For the next gateway, until the next boot; one that is killed keeps nothing."""
    try:
        content = json.dumps(traffic.dump()).encode()
        write_atomically(_kept_file(layout), content, mode=0o640)
    except HostError as error:
        log.warning("counters are not kept: %s", error)


def _kept_file(layout: Layout) -> Path:
    return layout.runtime_dir / "metrics.json"


async def page(
    runtime: Runtime, config: Config, traffic: Traffic, meters: Meters, *, version: str
) -> bytes:
    """All of it in Prometheus' text format."""
    from sparkd.adapters.prometheus import exposition

    readings = await _read(runtime, config)
    text, dropped = await asyncio.to_thread(merged, readings.pages)
    families = [
        *_of_traffic(traffic),
        *_of_keys(meters),
        *_of_models(runtime, config, readings),
        *_of_host(runtime, readings),
        _samples("build_info", [((version,), 1)]),
        _samples("engine_up", _up(readings)),
        _samples("engine_series_dropped", [((m,), n) for m, n in dropped.items()]),
    ]
    return exposition(families) + text.encode()


def _samples(name: str, rows: Rows) -> Samples:
    return Samples(FAMILIES[f"sparkd_{name}"], rows)


async def _read(runtime: Runtime, config: Config) -> Readings:
    host, running = await asyncio.gather(
        runtime.probe.host(config.settings.memory_reserve_bytes), _running(runtime)
    )
    pages = await _pages(runtime, running)
    return Readings(
        running=running,
        pages=pages,
        session_stats_by_model=runtime.sessions.all(),
        table=LockTable.read(),
        memory={
            "total": host.total_bytes,
            "available": host.available_bytes,
            "reserve": host.reserve_bytes,
        },
    )


async def _running(runtime: Runtime) -> frozenset[str]:
    try:
        units = await runtime.systemd.units([SCOPE_PATTERN])
    except SparkdError:
        return frozenset()
    return frozenset(m for unit in units if unit.active and (m := model_of_scope(unit.name)))


async def _pages(runtime: Runtime, running: frozenset[str]) -> dict[str, str]:
    """The pages of the engines that give one in time, by model."""
    endpoints = {
        model_id: Endpoint(socket=socket)
        for model_id in running
        if (socket := runtime.layout.endpoint_socket(Names(model_id))).exists()
    }
    endpoints |= {i.model_id: i.endpoint for i in runtime.ensurer.instances()}
    pages = await asyncio.gather(*(_page_of(endpoint) for endpoint in endpoints.values()))
    found = zip(endpoints, pages, strict=True)
    return {model_id: page for model_id, page in found if page is not None}


async def _page_of(endpoint: Endpoint) -> str | None:
    async with EngineClient(endpoint) as engine:
        try:
            page = await engine.fetch(
                "/metrics", limit_bytes=PAGE_LIMIT_BYTES, timeout_s=_ENGINE_TIMEOUT_S
            )
        except SparkdError:
            return None
    return page.text if page.status == HTTPStatus.OK else None


def _of_traffic(traffic: Traffic) -> Iterator[Samples]:
    for name, counts in traffic.counts.items():
        if name in FAMILIES:
            yield Samples(FAMILIES[name], list(counts.items()))
    for name, histograms in traffic.histograms.items():
        yield Samples(FAMILIES[name], list(histograms.items()))
    rows: Rows = [((model_id,), count) for model_id, count in traffic.in_flight.items()]
    yield _samples("requests_in_flight", rows)


def _of_keys(meters: Meters) -> Iterator[Samples]:
    """By the names of keys, of which there are as many as the admin has made."""
    used = meters.all()
    yield _samples("key_requests_total", [((one.name,), one.requests) for one in used])
    yield _samples("key_refused_total", [((one.name,), one.refused) for one in used])
    tokens: Rows = [((one.name, "prompt"), one.input_tokens) for one in used]
    tokens += [((one.name, "completion"), one.output_tokens) for one in used]
    yield _samples("key_tokens_total", tokens)


def _of_models(runtime: Runtime, config: Config, readings: Readings) -> Iterator[Samples]:
    session_stats_by_model = readings.session_stats_by_model
    totals = {model_id: one.totals for model_id, one in session_stats_by_model.items()}
    queue = runtime.scheduler.queue()
    ids = sorted({*config.models, *readings.running})
    yield _samples("queue_requests", [((m,), len(e.waiters)) for m, e in queue.items()])
    states = [((m, _state(runtime, readings, m)), 1.0) for m in ids]
    yield _samples("model_state", list(states))
    loads: Rows = [((m,), (one.loads, one.load_s)) for m, one in totals.items()]
    yield _samples("model_load_seconds", loads)
    stops: Rows = [((m, reason), n) for m, one in totals.items() for reason, n in one.ends.items()]
    yield _samples("model_stops_total", stops)
    swaps = sum(one.ends.get(EndReason.EVICTED, 0) for one in totals.values())
    yield _samples("swaps_total", [((), swaps)])
    yield _samples("model_run_seconds_total", [((m,), o.duration_s) for m, o in totals.items()])
    yield _samples("model_memory_bytes", _taken(session_stats_by_model))
    peaks = {m: runtime.records.loads(m).peak_bytes for m in session_stats_by_model}
    yield _samples("model_peak_bytes", [((m,), peak) for m, peak in peaks.items() if peak])
    used = {m: runtime.leases.last_used_at(Names(m)) for m in ids}
    rows: Rows = [((m,), at) for m, at in used.items() if at]
    yield _samples("model_last_used_timestamp_seconds", rows)
    failures = {m: runtime.records.failure(m) for m in ids}
    rows = [((m,), failure.count) for m, failure in failures.items() if failure]
    yield _samples("model_failures_in_a_row", rows)


def _taken(session_stats_by_model: dict[str, SessionStats]) -> Rows:
    return [
        ((model_id,), one.running.taken_bytes(usage.usage(one.running.pid).memory_bytes))
        for model_id, one in session_stats_by_model.items()
        if one.running is not None
    ]


def _state(runtime: Runtime, readings: Readings, model_id: str) -> State:
    """As in /status, without asking Podman or the engine."""
    if model_id in readings.running:
        session_stats = readings.session_stats_by_model.get(model_id)
        session = session_stats.running if session_stats is not None else None
        return describe(
            evidence_of_running(runtime.layout, runtime.records, readings.table, session, model_id)
        )
    entry, failure = runtime.scheduler.queue().get(model_id), runtime.records.failure(model_id)
    return describe(
        Evidence(
            waiters=len(entry.waiters) if entry is not None else 0,
            loading=entry is not None and entry.task is not None,
            failures=failure.count if failure is not None else 0,
        )
    )


def _of_host(runtime: Runtime, readings: Readings) -> Iterator[Samples]:
    memory: Rows = [((kind,), size) for kind, size in readings.memory.items()]
    yield _samples("host_memory_bytes", memory)
    holders: dict[str, int] = {}
    for holder in readings.table.holders(runtime.layout.gpu_lock):
        name = holder.model_id or "foreign"
        holders[name] = holders.get(name, 0) + 1
    yield _samples("gpu_lock_holders", [((name,), count) for name, count in holders.items()])


def _up(readings: Readings) -> Rows:
    return [((m,), float(m in readings.pages)) for m in sorted(readings.running)]
