# SPDX-License-Identifier: Apache-2.0
"""Background tasks whose failure ends no other task.

Owns the tasks, the log entry of a failure and the pause before a restart; knows nothing of the
work. An exception in a task that nothing awaits is lost, and one in a task group ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]

_PAUSES_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Before each restart; a cause that stays makes one log entry per minute."""
_STEADY_S: Final = 120.0
"""A task that ran for this long begins with the first pause after its next failure."""


class BackgroundTasks:
    """The background tasks of one owner."""

    def __init__(self, pauses_s: tuple[float, ...] = _PAUSES_S) -> None:
        self._pauses_s = pauses_s
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, name: str, work: Work) -> asyncio.Task[None]:
        """Run the work until it returns; log a failure and run it again after a pause."""
        return self._spawn(self._kept(name, work))

    def once(self, name: str, work: Work) -> asyncio.Task[None]:
        """Run the work; log a failure."""
        return self._spawn(_tried(name, work))

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _kept(self, name: str, work: Work) -> None:
        failures = 0
        while True:
            began_s = time.monotonic()
            try:
                await work()
            except Exception:
                if time.monotonic() - began_s >= _STEADY_S:
                    failures = 0
                pause_s = self._pauses_s[min(failures, len(self._pauses_s) - 1)]
                failures += 1
                log.exception("background task %s failed, restart in %g s", name, pause_s)
                await asyncio.sleep(pause_s)
            else:
                return


async def _tried(name: str, work: Work) -> None:
    try:
        await work()
    except Exception:
        log.exception("background task %s failed", name)


@contextlib.asynccontextmanager
async def alongside(name: str, work: Work) -> AsyncIterator[None]:
    """Keep the work running while the block runs; its failures do not reach the block."""
    supervisor = BackgroundTasks()
    supervisor.keep(name, work)
    try:
        yield
    finally:
        await supervisor.close()
