# SPDX-License-Identifier: Apache-2.0
"""The state of everything as one object, for `/status` and its readers.

Looks only: a status reading never wakes, holds or counts as use of a model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sparkd.core.access.api_keys import ApiKey, Scope
from sparkd.core.access.quota import Meter
from sparkd.core.catalog.presence import Missing, described
from sparkd.core.errors import HostError
from sparkd.core.model import Config, ModelSpec
from sparkd.core.model_state import State, describe
from sparkd.core.names import SCOPE_PATTERN, Names
from sparkd.core.observed import ModelReading, Snapshot
from sparkd.core.scheduling.memory import HostMemory
from sparkd.runtime import Runtime
from sparkd.scheduling.queue import Entry


async def status(runtime: Runtime, config: Config) -> dict[str, object]:
    """Read a snapshot and describe it. Raises HostError when it cannot be read.

    A model's state is a `core.model_state.State`.
    """
    snapshot, missing = await asyncio.gather(
        runtime.observer.read_with_health(config), runtime.presence.survey(config)
    )
    queue = runtime.scheduler.queue()
    host = await runtime.probe.host(config.settings.memory_reserve_bytes)
    return {
        "models": [
            _model(runtime, config, reading, queue.get(reading.model_id))
            | _memory(runtime, config.models.get(reading.model_id), host)
            | _presence(missing.get(reading.model_id, ()))
            for reading in snapshot.models.values()
        ],
        "gpu": {"holders": _holders(snapshot)},
        "queue": [_queued(model_id, entry) for model_id, entry in queue.items() if entry.waiters],
        "memory": {
            "unified": host.unified,
            "total_bytes": host.total_bytes,
            "available_bytes": host.available_bytes,
            "reserve_bytes": host.reserve_bytes,
        },
        "problems": [str(problem) for problem in config.problems],
        "now": round(time.time(), 3),
    }


async def states(runtime: Runtime, config: Config) -> dict[str, State]:
    """The state of each model; empty when the user manager or Podman cannot be asked.

    Podman is asked only while a model runs, because to ask it starts it.
    """
    queue = runtime.scheduler.queue()
    try:
        units = await runtime.systemd.units([SCOPE_PATTERN])
        readings = {model_id: runtime.observer.stopped(model_id) for model_id in config.models}
        if any(unit.active for unit in units):
            readings |= (await runtime.observer.read_with_health(config)).models
    except HostError:
        return {}
    return {
        model_id: _state(reading, queue.get(model_id)) for model_id, reading in readings.items()
    }


def _state(reading: ModelReading, entry: Entry | None) -> State:
    """The state of a model, with the requests that wait for it in this gateway."""
    if entry is None:
        return reading.state
    waiters, loading = len(entry.waiters), entry.task is not None
    return describe(replace(reading.evidence, waiters=waiters, loading=loading))


def _model(
    runtime: Runtime, config: Config, reading: ModelReading, entry: Entry | None
) -> dict[str, object]:
    spec = config.models.get(reading.model_id)
    failure = runtime.records.failure(reading.model_id)
    loads = runtime.records.loads(reading.model_id)
    instance = reading.instance
    progress = runtime.loads.progress(reading.model_id)
    pinned_by = _pinned_by(runtime, reading.model_id, spec)
    return {
        "id": reading.model_id,
        "state": _state(reading, entry),
        "lifecycle": spec.lifecycle if spec else None,
        "pinned": pinned_by is not None,
        "pinned_by": pinned_by,
        "in_use": reading.in_use,
        "started_at": instance.started_at if instance else None,
        "last_used_at": reading.last_used_at,
        "idle_check_at": reading.idle_check_at,
        "scope": Names(reading.model_id).scope if instance else None,
        "pid": instance.pid if instance else None,
        "phase": progress.phase if progress else None,
        "progress": progress.percent if progress else None,
        "typical_load_s": loads.typical_s,
        "peak_bytes": loads.peak_bytes,
        "failure": failure.message if failure else None,
        "failures_in_a_row": failure.count if failure else 0,
        "exit_code": reading.dead.exit_code if reading.dead else None,
        **(_configured(spec) if spec else {}),
    }


def _memory(runtime: Runtime, spec: ModelSpec | None, host: HostMemory) -> dict[str, object]:
    """What the model needs at its peak, and how that is known."""
    need = runtime.policy_inputs.need(spec, host) if spec else None
    return {
        "need_bytes": need.peak_bytes if need else None,
        "need_basis": need.basis if need else None,
    }


def _presence(missing: Sequence[Missing]) -> dict[str, object]:
    return {"present": not missing, "missing": described(missing)}


def used(meter: Meter) -> dict[str, object]:
    """What a key has used since the gateway began."""
    return {
        "name": meter.name,
        "open": meter.open,
        "requests": meter.requests,
        "refused": meter.refused,
        "input_tokens": meter.input_tokens,
        "output_tokens": meter.output_tokens,
    }


def visible_to(key: ApiKey, described: Mapping[str, object]) -> dict[str, object]:
    """What a key may see of it: its own models and its own use, unless it is an admin's.

    Every key may know that the GPU is held, but not the holder and its command.
    """
    shown = {**described, "scopes": list(key.scopes)}
    if Scope.ADMIN not in key.scopes:
        shown["problems"] = []
        shown["keys"] = [one for one in _list(described.get("keys", [])) if one["name"] == key.name]
        shown["gpu"] = {"holders": [_held(key, one) for one in _holders_in(described)]}
    if key.models:
        for part, name in (("models", "id"), ("queue", "model")):
            entries = _list(described[part])
            shown[part] = [one for one in entries if key.may_use(str(one[name]))]
    return shown


def _holders_in(described: Mapping[str, object]) -> list[dict[str, object]]:
    gpu = described["gpu"]
    return _list(gpu.get("holders")) if isinstance(gpu, Mapping) else []


def _held(key: ApiKey, holder: Mapping[str, object]) -> dict[str, object]:
    """A holder of the GPU, by name only if it is a model of this key."""
    if isinstance(holder["model"], str) and key.may_use(holder["model"]):
        return dict(holder)
    return {**holder, "pid": None, "command": None, "model": None}


def _configured(spec: ModelSpec) -> dict[str, object]:
    """What the catalog says of it, for people who choose."""
    return {
        "title": spec.title,
        "family": spec.family,
        "status": spec.status,
        "reason": spec.reason,
        "dialects": list(spec.dialects),
        "max_model_len": spec.max_model_len,
    }


def _pinned_by(runtime: Runtime, model_id: str, spec: ModelSpec | None) -> str | None:
    if spec is not None and spec.pinned:
        return "catalog"
    return "admin" if runtime.records.pinned(model_id) else None


def _holders(snapshot: Snapshot) -> list[dict[str, object]]:
    return [
        {
            "pid": holder.pid,
            "command": holder.command,
            "exclusive": holder.exclusive,
            "model": holder.model_id,
        }
        for holder in snapshot.holders
    ]


def _queued(model_id: str, entry: Entry) -> dict[str, object]:
    now_s = time.monotonic()
    ages = sorted((round(now_s - since_s, 3) for since_s in entry.waiters.values()), reverse=True)
    return {
        "model": model_id,
        "waiting": len(ages),
        "oldest_s": ages[0],
        "ages_s": ages[:20],
        "loading": entry.task is not None,
        "why": entry.why,
    }


def reference_state(described: Mapping[str, object], config: Config) -> dict[str, object]:
    """The same for clients of the gateway that this one replaces (`/debug/state`)."""
    settings = config.settings
    models = [model for model in _list(described["models"]) if model["started_at"] is not None]
    return {
        "config": {
            "IDLE_STOP_SECONDS": settings.idle_timeout_s,
            "NO_STOP_BEFORE_SECONDS": settings.min_residency_s,
            "HEALTH_TIMEOUT_MS": round(settings.load_timeout_s * 1000),
            "BUSY_STATUS_CODE": 429,
        },
        "startAtMs": {model["id"]: _ms(model["started_at"]) for model in models},
        "lastSeenMs": {model["id"]: _ms(model["last_used_at"]) for model in models},
        "busyWith": next((model["id"] for model in models if model["in_use"]), None),
        "now": _ms(described["now"]),
        "tasks": len(asyncio.all_tasks()),
        **described,
    }


def _list(value: object) -> list[dict[str, object]]:
    return value if isinstance(value, list) else []


def _ms(at: object) -> int | None:
    return round(at * 1000) if isinstance(at, float) else None
