# SPDX-License-Identifier: Apache-2.0
"""Events for listeners as they occur, read from the journal, to which every process writes them.

The gateway, idle passes and sparkctl are processes of their own; what they have in common is the
journal, so one `journalctl --follow` tells of all of them. It runs while there are listeners,
shared by all listeners, and not a moment longer. A listener gets what came after the moment it
names, so one that lost its connection misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from sparkd.adapters.background_tasks import BackgroundTasks
from sparkd.adapters.journal.reader import events, follow
from sparkd.core.telemetry.events import CHATTY, Event, EventKind, parse

log = logging.getLogger(__name__)

BACKLOG_MAX_S = 3600.0
"""How far back a listener may ask."""
_PENDING_MAX = 2000
"""Events that a listener has not taken yet; one that lets more of them gather is dropped."""
_RESTART_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""journalctl ends when journald is being replaced; without a journal it ends at once."""


class ListenerLostError(Exception):
    """The listener did not take what it was told."""


class Listener:
    """One who listens; takes events by iterating over it."""

    def __init__(self, after_us: int, *, chatty: bool, of: Callable[[str], bool]) -> None:
        self.after_us = after_us
        self._of = of
        self.chatty = chatty
        self.lost = False
        self._pending: deque[Event] = deque()
        self._some = asyncio.Event()

    def put(self, event: Event) -> None:
        if event.at_us <= self.after_us or (not self.chatty and _is_chatty(event)):
            return
        if not self._of(str(event.values.get("model", ""))):
            return
        self.after_us = event.at_us
        if len(self._pending) >= _PENDING_MAX:
            self.lost = True
            self._pending.clear()
        if not self.lost:
            self._pending.append(event)
        self._some.set()

    async def next(self) -> Event:
        """The next event. Raises ListenerLostError."""
        while not self._pending:
            if self.lost:
                raise ListenerLostError
            self._some.clear()
            await self._some.wait()
        return self._pending.popleft()


class EventFeed:
    """All listeners of one process, and the one reader of the journal that serves them."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._tasks = BackgroundTasks()
        self._reader: asyncio.Task[None] | None = None
        self._read_us = 0
        """The position of the reader; earlier events need another reader."""
        self._chatty = False
        self._turn = asyncio.Lock()
        """Held while the reader is replaced or stopped."""

    @contextlib.asynccontextmanager
    async def listen(
        self, after_us: int | None, *, chatty: bool, of: Callable[[str], bool]
    ) -> AsyncIterator[Listener]:
        """Listen to what comes after a moment of wall time, `None` for now, in microseconds.

        `chatty` says whether to tell of each request and each idle check too, `of` which models to
        tell of; what is about none has the empty id.
        """
        now_us = time.time_ns() // 1000
        oldest_us = now_us - int(BACKLOG_MAX_S * 1e6)
        begin_us = max(now_us if after_us is None else after_us, oldest_us)
        listener = Listener(begin_us, chatty=chatty, of=of)
        self._listeners.add(listener)
        try:
            await self._serve(listener)
            yield listener
        finally:
            self._listeners.discard(listener)
            async with self._turn:
                if not self._listeners:
                    await self._stop()

    async def _serve(self, listener: Listener) -> None:
        """Have a reader that covers what the listener wants."""
        async with self._turn:
            covered = self._read_us <= listener.after_us and self._chatty >= listener.chatty
            if self._reader is None or self._reader.done() or not covered:
                await self._stop()
                # Listeners skip what they were told already.
                self._read_us = min(one.after_us for one in self._listeners)
                self._chatty = any(one.chatty for one in self._listeners)
                # One that failed goes on after the last event that it read.
                self._reader = self._tasks.keep("events", lambda: self._read(self._read_us))

    async def _stop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, since_us: int) -> None:
        wanted = [kind.message_id for kind in EventKind if self._chatty or kind not in CHATTY]
        pauses_s = list(_RESTART_PAUSES_S)
        while True:
            since = f"--since=@{since_us / 1e6:.6f}"
            async with contextlib.aclosing(follow(since, *events(wanted, os.getuid()))) as lines:
                async for line in lines:
                    event = parse(line)
                    if event is None:
                        continue
                    since_us = self._read_us = max(since_us, event.at_us)
                    pauses_s = list(_RESTART_PAUSES_S)
                    for listener in self._listeners:
                        listener.put(event)
            if not pauses_s:
                log.warning("the journal cannot be read: no listener gets events")
                return
            await asyncio.sleep(pauses_s.pop(0))


def _is_chatty(event: Event) -> bool:
    return any(event.name == kind.label for kind in CHATTY)
