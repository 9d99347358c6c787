# SPDX-License-Identifier: Apache-2.0
"""Watches the host's memory while a model loads, and kills the load before it freezes the host.

MemAvailable was seen to fall by 21 GiB in 1.5 s on GB10, cgroup limits do not see CUDA memory, and
the kernel's OOM killer comes too late or never. So the guard samples four times a second.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from sparkd.adapters.journal import Event, fields
from sparkd.adapters.memory import MemoryProbe
from sparkd.adapters.systemd import UserManager
from sparkd.core import memory
from sparkd.core.model import Settings
from sparkd.core.names import model_of_scope

log = logging.getLogger(__name__)

_SAMPLE_S = 0.25
_DROP_PAUSE_S = 5.0
"""Dropping the page cache takes its time; asking again sooner would not help."""
_RECOVERY_PAUSE_S = 0.25
_RECOVERY_STEADY_S = 2.0
_RECOVERY_LIMIT_S = 20.0
"""Memory of a dead CUDA process was seen to come back late or never; then the admission decides."""


class LoadGuard:
    """One load under watch; `crossed_bytes` is set when it was killed."""

    def __init__(
        self, probe: MemoryProbe, systemd: UserManager, drop_caches: Path, settings: Settings
    ) -> None:
        self._probe = probe
        self._systemd = systemd
        self._drop_caches = drop_caches
        self._settings = settings
        self.before_bytes = probe.available_bytes()
        self.lowest_bytes = self.before_bytes
        self.crossed_bytes: int | None = None

    @property
    def floor_bytes(self) -> int:
        return self._settings.memory_floor_bytes

    @property
    def peak_bytes(self) -> int:
        """How much less was available at the worst moment than before the load."""
        return max(0, self.before_bytes - self.lowest_bytes)

    async def watch(self, scope: str) -> None:
        """Sample until cancelled, or until the floor is crossed and the scope killed."""
        loop = asyncio.get_running_loop()
        dropped_s = -_DROP_PAUSE_S
        while True:
            available = self._probe.available_bytes()
            self.lowest_bytes = min(self.lowest_bytes, available)
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

    def _tell(self, scope: str, available: int, reason: str) -> None:
        log.log(
            logging.ERROR if reason == "floor" else logging.WARNING,
            "%d MiB available while %s loads: %s",
            available >> 20,
            scope,
            "killing it" if reason == "floor" else "dropping caches",
            extra=fields(
                Event.MEMORY_LOW,
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
    best, best_at_s = probe.available_bytes(), loop.time()
    while loop.time() < deadline_s and loop.time() - best_at_s < _RECOVERY_STEADY_S:
        available = probe.available_bytes()
        if available >= wanted_bytes:
            return
        if available > best:
            best, best_at_s = available, loop.time()
        await asyncio.sleep(_RECOVERY_PAUSE_S)
