# SPDX-License-Identifier: Apache-2.0
"""The memory guard of a load: kills it before it freezes the host, and measures it.

MemAvailable was seen to fall by 21 GiB in 1.5 s on GB10, cgroup limits do not see CUDA memory, and
the kernel's OOM killer comes too late or never. So the guard samples four times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from sparkd.adapters.background_tasks import alongside
from sparkd.adapters.journal.writer import fields
from sparkd.adapters.proc.memory import MemoryProbe
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.errors import HostError, StartFailed
from sparkd.core.model import ModelSpec, Settings
from sparkd.core.names import model_of_scope
from sparkd.core.scheduling import memory
from sparkd.core.telemetry.events import EventKind

log = logging.getLogger(__name__)

_SAMPLE_S = 0.25
_TOOL_SAMPLE_S = 1.0
"""A discrete GPU is asked by a program that has to be started."""
_DROP_PAUSE_S = 5.0
"""Dropping the page cache takes its time; asking again sooner would not help."""
_RECOVERY_PAUSE_S = 0.25
_RECOVERY_STEADY_S = 2.0
_RECOVERY_LIMIT_S = 20.0
"""Memory of a dead CUDA process was seen to come back late or never; then the admission decides."""


class MemoryGuard:
    """One load under watch; `crossed_bytes` is set when it was killed.

    What is killed for is the host's memory, for that is what freezes the host; what is measured is
    the memory that models live in (`MemoryProbe.host`), which on a discrete GPU is another one.
    """

    def __init__(
        self,
        probe: MemoryProbe,
        systemd: UserManager,
        drop_caches: Path,
        settings: Settings,
        others_move: Callable[[], bool],
    ) -> None:
        self._probe = probe
        self._systemd = systemd
        self._drop_caches = drop_caches
        self._settings = settings
        self._others_move = others_move
        self._disturbed = False
        self._before_bytes = 0
        self._lowest_bytes = 0
        self.crossed_bytes: int | None = None

    @property
    def floor_bytes(self) -> int:
        return self._settings.memory_floor_bytes

    def failure(self, spec: ModelSpec) -> StartFailed | None:
        """The error of a load that this guard killed."""
        if self.crossed_bytes is None:
            return None
        return StartFailed(
            f"model {spec.model_id!r} was killed while it loaded: {self.crossed_bytes >> 20} MiB "
            f"of memory were available, the floor is {self.floor_bytes >> 20} MiB",
            hint="lower its --gpu-memory-utilization, or memory_floor in /etc/sparkd/sparkd.yaml",
            code="memory_collapsed",
        )

    async def begin(self) -> None:
        """Note how much is available before the load."""
        self._before_bytes = self._lowest_bytes = (await self._probe.host(0)).available_bytes

    async def peak_bytes(self) -> int | None:
        """How much less was available at the worst moment than before the load.

        None when other models were started or stopped meanwhile: their shares are unknown.
        """
        await self._measure()
        return None if self._disturbed else max(0, self._before_bytes - self._lowest_bytes)

    async def grown_bytes(self) -> int | None:
        """How much less is available now than before the load; None as with `peak_bytes`."""
        available = (await self._probe.host(0)).available_bytes
        return None if self._disturbed else self._before_bytes - available

    async def watch(self, scope: str) -> None:
        """Sample until cancelled, or until the floor is crossed and the scope killed."""
        measuring = asyncio.ensure_future(self._keep_measuring())
        try:
            await self._keep_off_the_floor(scope)
        finally:
            measuring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await measuring

    @contextlib.asynccontextmanager
    async def watching(self, scope: str) -> AsyncIterator[None]:
        """Watch as long as the block lasts."""
        async with alongside(f"memory guard of {scope}", partial(self.watch, scope)):
            yield

    async def _keep_off_the_floor(self, scope: str) -> None:
        loop = asyncio.get_running_loop()
        dropped_s = -_DROP_PAUSE_S
        while True:
            available = self._probe.available_bytes()
            word = memory.verdict(
                available,
                drop_caches_below=self._settings.drop_caches_below_bytes,
                floor=self._settings.memory_floor_bytes,
            )
            if word is memory.Verdict.KILL:
                self.crossed_bytes = available
                self._tell(scope, available, "floor")
                await self._systemd.kill(scope)
                return
            if word is memory.Verdict.DROP_CACHES and loop.time() - dropped_s >= _DROP_PAUSE_S:
                dropped_s = loop.time()
                self._tell(scope, available, "drop_caches")
                self._ask_to_drop_caches()
            await asyncio.sleep(_SAMPLE_S)

    async def _keep_measuring(self) -> None:
        while True:
            await self._measure()
            await asyncio.sleep(_TOOL_SAMPLE_S if self._probe.discrete else _SAMPLE_S)

    async def _measure(self) -> None:
        self._disturbed = self._disturbed or self._others_move()
        with contextlib.suppress(HostError):
            available = (await self._probe.host(0)).available_bytes
            self._lowest_bytes = min(self._lowest_bytes, available)

    def _tell(self, scope: str, available: int, reason: str) -> None:
        log.log(
            logging.ERROR if reason == "floor" else logging.WARNING,
            "%d MiB available while %s loads: %s",
            available >> 20,
            scope,
            "killing it" if reason == "floor" else "dropping caches",
            extra=fields(
                EventKind.MEMORY_LOW,
                model=model_of_scope(scope),
                available_bytes=available,
                reason=reason,
            ),
        )

    def _ask_to_drop_caches(self) -> None:
        try:
            # Opening for writing and closing is what PathChanged= of the root unit waits for.
            self._drop_caches.open("w").close()
        except OSError as error:
            log.warning("cannot touch %s: %s", self._drop_caches, error.strerror)


async def recovered(probe: MemoryProbe, wanted_bytes: int) -> None:
    """Wait until `wanted_bytes` are available, or no more come back."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _RECOVERY_LIMIT_S
    best, best_at_s = (await probe.host(0)).available_bytes, loop.time()
    while loop.time() < deadline_s and loop.time() - best_at_s < _RECOVERY_STEADY_S:
        available = (await probe.host(0)).available_bytes
        if available >= wanted_bytes:
            return
        if available > best:
            best, best_at_s = available, loop.time()
        await asyncio.sleep(_RECOVERY_PAUSE_S)
