# SPDX-License-Identifier: Apache-2.0
"""Start and stop one model: container, scope, timers and directory, all or nothing.

    load timer -> create -> init -> scope around payload and conmon -> start -> wait for /health

The load timer comes first: whatever is killed afterwards, an idle pass finds what was left and
ends it. A step that fails takes all earlier ones back, except that a payload which died by itself
leaves its dead container behind, which tells why until the next start removes it.

Every function here is called with the model's transition lock held exclusively.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkd.adapters.engine.client import EngineClient
from sparkd.adapters.failpoints import failpoint
from sparkd.adapters.files.trees import remove_tree
from sparkd.adapters.journal.reader import killed_for_memory
from sparkd.adapters.journal.writer import NOTICE, fields
from sparkd.adapters.podman.client import Podman
from sparkd.adapters.proc.processes import LockTable, ProcessWatch, free_port
from sparkd.adapters.systemd.user_manager import UnitActive, UserManager
from sparkd.core.container.spec import EXIT_GPU_TAKEN, container_spec, endpoint_of, spec_hash
from sparkd.core.container.units import scope_properties, timer_properties
from sparkd.core.engine.printed_text import exit_words
from sparkd.core.errors import (
    HostError,
    SparkdError,
    StartCrashed,
    StartTimedOut,
    room_hint,
)
from sparkd.core.model import ModelSpec, Transport
from sparkd.core.names import GPU_LOCK_MODE, Layout, Names
from sparkd.core.observed import Instance, LockHolder
from sparkd.core.scheduling.gpu_locks import excluding_model
from sparkd.core.scheduling.policy import excluding_program, gpu_held
from sparkd.core.telemetry.events import EventKind
from sparkd.lifecycle.deaths import recorded_exit, said
from sparkd.lifecycle.start.gpu_devices import explained
from sparkd.lifecycle.start.presence import check_files

log = logging.getLogger(__name__)

_HEALTH_PAUSES_S = (0.02, 0.2)
"""At first and at most; between, a tenth of the time waited so far, so a short load is not made
longer by the asking, nor is a long one asked more often than it is worth."""
_SCOPE_GONE_TIMEOUT_S = 2.0
_ADOPTION_PATIENCE_S = 15.0
"""A model found running long after its start still gets this long to say that it is healthy."""


class SlotTaken(SparkdError):
    """Another model has the GPU, against our snapshot: look again."""

    code = "lane_taken"
    http_status = 503

    def __init__(self, model_id: str, holder: LockHolder | None, *, started: bool) -> None:
        super().__init__(f"model {model_id!r} found the GPU taken")
        self.holder = holder
        self.started = started
        """Whether a container was started or woken for nothing."""


@dataclass(frozen=True, slots=True)
class Launcher:
    layout: Layout
    systemd: UserManager
    podman: Podman

    async def begin(self, spec: ModelSpec, extra_args: tuple[str, ...] = ()) -> Instance:
        """Make the model's process run; it is not healthy yet.

        `extra_args` are computed for this start and not part of what the model is configured as.

        Raises NotPresent (image, weights, files), HostError, or SlotTaken when another model
        holds its locks; then nothing is left.
        """
        names = Names(spec.model_id)
        await asyncio.to_thread(check_files, spec, self.layout)
        await self.remove(names)
        holder = self._model_in_the_way(spec, LockTable.read())
        if holder is not None:
            raise SlotTaken(spec.model_id, holder, started=False)
        try:
            await self.arm_load_timer(names, spec.load_timeout_s + spec.idle_timeout_s)
            failpoint("start-armed")
            return await self._begin(spec, names, extra_args)
        except HostError as error:
            await to_the_end(self.remove(names))
            raise await explained(error, spec, self.podman) from error
        except BaseException:
            await to_the_end(self.remove(names))
            raise

    async def _begin(self, spec: ModelSpec, names: Names, extra_args: tuple[str, ...]) -> Instance:
        self._make_directories(names)
        port = free_port() if spec.transport is Transport.TCP else None
        container = container_spec(spec, self.layout, port=port, extra_args=extra_args)
        container_id = await self.podman.create(container)
        failpoint("start-created")
        pids = await self.podman.init(container_id)
        failpoint("start-initialised")
        await self.systemd.start_transient(
            names.scope, scope_properties(spec, (pids.payload, pids.conmon))
        )
        failpoint("start-scoped")
        await self.podman.start(container_id)
        failpoint("start-started")
        log.log(
            NOTICE,
            "model %s is starting in %s",
            spec.model_id,
            names.scope,
            extra=fields(EventKind.MODEL_STARTING, model=spec.model_id, unit=names.scope),
        )
        return Instance(
            model_id=spec.model_id,
            container_id=container_id,
            pid=pids.payload,
            spec_hash=spec_hash(spec, self.layout),
            endpoint=endpoint_of(spec, self.layout, port),
            started_at=time.time(),
            started_s=time.monotonic(),
        )

    async def wait_ready(
        self,
        spec: ModelSpec,
        instance: Instance,
        *,
        adopted: bool,
        keep: bool = True,
        served: bool = False,
    ) -> None:
        """Wait until the started model is healthy.

        Raises StartCrashed as soon as its process ends, StartTimedOut at its load timeout,
        SlotTaken or GpuHeld when it found the GPU taken; then only the dead container is left.
        When cancelled, the model goes on and its timers look after it; unless `keep`, it is
        stopped and nothing is left. An `adopted` model gets some time even after its load timeout.
        The end of one that `served` before is no failed start: `lifecycle.deaths` tells of it.
        """
        names = Names(spec.model_id)
        try:
            async with asyncio.timeout(_patience_s(spec, instance, adopted=adopted)):
                healthy = await _healthy_or_ended(instance)
        except TimeoutError:
            await self._give_up(spec, instance, names)
            slow = StartTimedOut(
                f"model {spec.model_id!r} was not healthy within its load timeout of "
                f"{spec.load_timeout_s:g} s"
                + await said(instance.container_id, instance.started_at),
                hint=f"sudo sparkctl logs {spec.model_id}; raise load_timeout if it needs longer",
            )
            _log_failed(spec, slow)
            raise slow from None
        except asyncio.CancelledError:
            if not keep:
                await to_the_end(self.stop(names, instance.container_id, spec.stop_grace_s))
            raise
        if not healthy:
            raise await self._crashed(spec, instance, names, served=served)

    async def until_settled(self, spec: ModelSpec, instance: Instance) -> None:
        """Wait until the model is healthy, has ended, or is past its load timeout.

        Only looks, so no lock is needed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_patience_s(spec, instance, adopted=False)):
                await _healthy_or_ended(instance)

    async def stop(self, names: Names, container_id: str | None, grace_s: float) -> None:
        """End the model whatever state it is in, and remove all that belonged to it.

        Call with activity held exclusively too, unless its start is being given up.
        """
        failpoint("stop-begun")
        await self._end_processes(names, container_id, grace_s)
        failpoint("stop-ended")
        await self.remove(names)

    async def remove(self, names: Names) -> None:
        """Remove container, scope, timers and endpoint directory; what is missing is removed."""
        await self.podman.remove(names.container)
        failpoint("stop-removed")
        await self.remove_all_but_container(names)

    async def remove_all_but_container(self, names: Names) -> None:
        """Like `remove`, keeping a dead container that tells why it ended."""
        await self.systemd.stop(names.scope, timeout_s=_SCOPE_GONE_TIMEOUT_S)
        failpoint("stop-unscoped")
        await self.systemd.stop(names.load_timer)
        await self.systemd.stop(names.idle_timer)
        with contextlib.suppress(OSError):
            # One that stays names a container that is no more, and counts for nothing.
            self.layout.sleep_marker_file(names).unlink(missing_ok=True)
        await remove_tree(self.layout.endpoint_dir(names))

    async def arm_load_timer(self, names: Names, delay_s: float) -> None:
        await self._arm(names, names.load_timer, "load", delay_s)

    async def arm_idle_timer(self, names: Names, delay_s: float) -> None:
        """Have the model checked for idleness in `delay_s`; replaces every earlier timer."""
        await self._arm(names, names.idle_timer, "idle", delay_s)
        failpoint("ready-armed")
        await self.systemd.stop(names.load_timer)

    async def _arm(self, names: Names, timer: str, purpose: str, delay_s: float) -> None:
        await self.systemd.stop(timer)
        # An idle pass that finds the model busy sets the same timer as the process that keeps it
        # busy, and neither holds a lock that the other needs: one timer does for both.
        with contextlib.suppress(UnitActive):
            await self.systemd.start_transient(
                timer, timer_properties(names, purpose=purpose, delay_s=delay_s)
            )

    def _make_directories(self, names: Names) -> None:
        endpoint_dir = self.layout.endpoint_dir(names)
        try:
            endpoint_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.layout.cache_dir(names).mkdir(mode=0o700, parents=True, exist_ok=True)
            # Both are created at boot, and missing only after a removal.
            for lock in (self.layout.gpu_lock, self.layout.lane_lock):
                if not lock.exists():
                    lock.touch()
                    lock.chmod(GPU_LOCK_MODE)
        except OSError as error:
            full = error.errno == errno.ENOSPC
            raise HostError(
                f"cannot make {error.filename}: {error.strerror}",
                hint=room_hint(Path(error.filename).parent)
                if full
                else "sudo systemd-tmpfiles --create sparkd.conf",
            ) from error

    async def _end_processes(self, names: Names, container_id: str | None, grace_s: float) -> None:
        """Stop through Podman, which records the exit; through the scope if that fails."""
        if container_id is not None:
            try:
                await self.podman.stop(container_id, grace_s)
            except HostError as error:
                log.warning(
                    "podman stop of %s failed, ending its scope: %s", names.container, error
                )
        await self.systemd.stop(names.scope, timeout_s=grace_s + 5.0)

    async def _give_up(self, spec: ModelSpec, instance: Instance, names: Names) -> None:
        """End a start that failed, keeping the dead container."""
        await to_the_end(self._end_but_keep(spec, instance, names))

    async def _end_but_keep(self, spec: ModelSpec, instance: Instance, names: Names) -> None:
        await self._end_processes(names, instance.container_id, spec.stop_grace_s)
        await self.remove_all_but_container(names)

    async def _crashed(
        self, spec: ModelSpec, instance: Instance, names: Names, *, served: bool
    ) -> SparkdError:
        """The error that tells why a start ended by itself; only the dead container is left."""
        reading = await recorded_exit(self.podman, instance.container_id)
        await self._give_up(spec, instance, names)
        if served:
            return StartCrashed(f"model {spec.model_id!r} died while it served")
        if reading is not None and reading.exit_code == EXIT_GPU_TAKEN:
            return self._gpu_taken(spec)
        if await killed_for_memory(names.scope, instance.started_at):
            error = _out_of_memory(spec)
        else:
            exit_code = "an unknown code" if reading is None else exit_words(reading.exit_code)
            error = StartCrashed(
                f"model {spec.model_id!r} exited with {exit_code} while it started"
                + await said(instance.container_id, instance.started_at),
                hint=f"sudo sparkctl logs {spec.model_id}",
            )
        _log_failed(spec, error)
        return error

    def _gpu_taken(self, spec: ModelSpec) -> SparkdError:
        table = LockTable.read()
        foreign = excluding_program(table.holders(self.layout.gpu_lock), spec.lifecycle)
        if foreign is not None:
            return gpu_held(spec.model_id, foreign)
        # Another model has it, or a process that has ended by now: look again.
        return SlotTaken(spec.model_id, self._model_in_the_way(spec, table), started=True)

    def _model_in_the_way(self, spec: ModelSpec, table: LockTable) -> LockHolder | None:
        gpu, lane = (table.holders(path) for path in (self.layout.gpu_lock, self.layout.lane_lock))
        return excluding_model(gpu, lane, spec.model_id, spec.lifecycle)


def _patience_s(spec: ModelSpec, instance: Instance, *, adopted: bool) -> float:
    remaining_s = instance.started_s + spec.load_timeout_s - time.monotonic()
    return max(_ADOPTION_PATIENCE_S if adopted else 0.0, remaining_s)


async def _healthy_or_ended(instance: Instance) -> bool:
    """True once the model is healthy, False once its process has ended."""
    try:
        watch = ProcessWatch(instance.pid)
    except ProcessLookupError:
        return False
    ended = asyncio.ensure_future(watch.ended())
    began_s, (shortest_s, longest_s) = time.monotonic(), _HEALTH_PAUSES_S
    try:
        async with EngineClient(instance.endpoint) as engine:
            while not await engine.healthy():
                pause_s = min(longest_s, max(shortest_s, (time.monotonic() - began_s) / 10))
                await asyncio.wait([ended], timeout=pause_s)
                if ended.done():
                    return False
        return True
    finally:
        ended.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ended
        watch.close()


def _out_of_memory(spec: ModelSpec) -> StartCrashed:
    limit = spec.memory_max_bytes
    return StartCrashed(
        f"model {spec.model_id!r} was killed by the kernel while it started: "
        + (f"it used more memory than its memory_max, {limit >> 20} MiB" if limit else "no memory"),
        hint="raise memory_max of its entry"
        if limit
        else "sudo journalctl -k --grep='Out of memory'",
        code="killed_for_memory",
    )


def _log_failed(spec: ModelSpec, error: SparkdError) -> None:
    extra = fields(EventKind.MODEL_FAILED, model=spec.model_id, reason=error.code)
    log.error("%s", error.message, extra=extra)


async def ended(work: asyncio.Future[Any]) -> bool:
    """Wait until the work has ended, also when this task is cancelled meanwhile; whether it was."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


async def to_the_end(cleanup: Coroutine[Any, Any, None]) -> None:
    """Run a clean-up to its end even when this task is cancelled (again) meanwhile; only then is
    it cancelled."""
    task = asyncio.ensure_future(cleanup)
    cancelled = await ended(task)
    try:
        task.result()
    except SparkdError as error:
        # The error that led here matters more; the next start or idle pass cleans up again.
        log.warning("clean-up did not end well: %s", error)
    if cancelled:
        raise asyncio.CancelledError
