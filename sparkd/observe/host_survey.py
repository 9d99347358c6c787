# SPDX-License-Identifier: Apache-2.0
"""The facts of a diagnosis: the host's, and those of the user sparkd's systemd and Podman.

Only looks. An area that cannot be read is left out and said to be unseen; none keeps the others
from being read, because a diagnosis is wanted when things are broken.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sparkd.adapters import host_facts
from sparkd.adapters.files import weight_files
from sparkd.core.diagnosis import facts
from sparkd.core.errors import SparkdError
from sparkd.core.model import Config, ModelSpec, Status
from sparkd.core.names import GPU_LOCK_MODE, SCOPE_PATTERN, Layout, Names, model_of_scope, unescape
from sparkd.runtime import Runtime

T = TypeVar("T")

_ONLY_SPARKD = "only root and the user sparkd can"


def examine_host(config: Config, layout: Layout, *, account: str, settings: Path) -> facts.Facts:
    """The facts that every user may see; the rest is reported as unseen."""
    user = host_facts.account(account)
    wanted = {spec.gpu for spec in config.models.values() if _is_startable(spec)} - {None}
    return facts.Facts(
        account=user,
        kernel=host_facts.kernel(),
        manager=host_facts.manager(user.uid) if user else None,
        gpu=host_facts.gpu(f"nvidia.com/gpu={name}" for name in wanted),
        disks=host_facts.disks((layout.state_dir, Path("/var/tmp"), settings.parent)),
        clock=host_facts.clock(),
        catalog=facts.Catalog(problems=len(config.problems)),
        unseen=tuple((area, _ONLY_SPARKD) for area in ("Podman", "memory", "files", "leftovers")),
    )


async def examine(config: Config, runtime: Runtime, *, account: str, settings: Path) -> facts.Facts:
    """Everything, as the user sparkd sees it."""
    seen = examine_host(config, runtime.layout, account=account, settings=settings)
    unseen: list[tuple[str, str]] = []
    engine = await _engine(runtime)
    return replace(
        seen,
        engine=engine,
        memory=await _or_unseen("memory", _memory(config, runtime), unseen),
        leftovers=await _or_unseen("leftovers", _leftovers(config, runtime), unseen)
        if not engine.error
        else None,
        paths=_paths(runtime.layout, account),
        catalog=facts.Catalog(
            problems=len(config.problems),
            unreadable_weights=_unreadable_weights(config),
            misplaced_weights=_misplaced_weights(config),
        ),
        unseen=tuple(unseen),
    )


async def _or_unseen(area: str, reading: Awaitable[T], unseen: list[tuple[str, str]]) -> T | None:
    try:
        return await reading
    except (SparkdError, OSError, ValueError) as error:
        unseen.append((area, str(error)))
        return None


async def _engine(runtime: Runtime) -> facts.Engine:
    state = host_facts.unit_state("podman.socket", "--user")
    try:
        info = await runtime.podman.info()
    except SparkdError as error:
        return facts.Engine(socket_state=state, error=error.message)
    return facts.Engine(
        socket_state=state, version=info.version, storage_driver=info.storage_driver
    )


async def _memory(config: Config, runtime: Runtime) -> facts.Memory:
    host = await runtime.probe.host(config.settings.memory_reserve_bytes)
    lines = runtime.probe.amounts()
    needs = [
        (need.peak_bytes, spec.model_id)
        for spec in config.models.values()
        if _is_startable(spec)
        and all(weights.path.exists() for weights in spec.all_weights)
        and (need := runtime.policy_inputs.need(spec, host)) is not None
    ]
    largest = max(needs, default=None)
    return facts.Memory(
        total_bytes=host.total_bytes,
        available_bytes=host.available_bytes,
        free_bytes=lines.get("MemFree", host.available_bytes),
        swap_bytes=lines.get("SwapTotal", 0),
        reserve_bytes=host.reserve_bytes,
        largest=(largest[1], largest[0]) if largest else None,
        unified=host.unified,
        drops_caches=host_facts.unit_state("sparkd-drop-caches.path") == "active",
    )


async def _leftovers(config: Config, runtime: Runtime) -> facts.Leftovers:
    snapshot = await runtime.observer.read(config)
    moving = {model_id for model_id, one in snapshot.models.items() if one.in_transition}
    units = await runtime.systemd.units([SCOPE_PATTERN])
    scopes = {model for unit in units if unit.active and (model := model_of_scope(unit.name))}
    failed = {model for unit in units if unit.failed and (model := model_of_scope(unit.name))}
    containers = {one.model_id: one for one in await runtime.podman.models()}
    alive = {model_id for model_id, one in containers.items() if not one.dead}
    directories = {unescape(name) for name in os.listdir(runtime.layout.endpoints_dir)}
    return facts.Leftovers(
        containers=tuple(alive - scopes - moving),
        scopes=tuple(scopes - containers.keys() - moving),
        directories=tuple(directories - scopes - containers.keys() - moving),
        failed_units=tuple(failed - moving),
    )


def _paths(layout: Layout, account: str) -> tuple[facts.Path, ...]:
    modes = (
        (layout.runtime_dir, 0o755),
        (layout.locks_dir, 0o700),
        (layout.endpoints_dir, 0o700),
        (layout.gpu_lock, GPU_LOCK_MODE),
        (layout.lane_lock, GPU_LOCK_MODE),
        (layout.state_dir, 0o755),
        (layout.stats_dir, 0o750),
        (layout.cache_dir(Names("x")).parent, 0o750),
    )
    return tuple(host_facts.path(place, mode, account) for place, mode in modes)


def _unreadable_weights(config: Config) -> tuple[tuple[str, str], ...]:
    return tuple(
        (spec.model_id, str(weights.path))
        for spec in config.models.values()
        for weights in spec.all_weights
        if host_facts.is_unreadable(weights.path)
    )


def _misplaced_weights(config: Config) -> tuple[tuple[str, str, str], ...]:
    found = (
        (spec.model_id, weight_files.layout_flaw(weights.path))
        for spec in config.models.values()
        for weights in spec.all_weights
    )
    return tuple((model_id, flaw.message, flaw.hint) for model_id, flaw in found if flaw)


def _is_startable(spec: ModelSpec) -> bool:
    return spec.status is not Status.DISABLED
