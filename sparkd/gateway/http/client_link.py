# SPDX-License-Identifier: Apache-2.0
"""The writing side of a client's connection, and the clients that stall or leave.

A client that reads next to nothing of its response is disconnected, so that it cannot hold a model.
A disconnect is noticed also while nothing is read from the client. `gateway.http.protocol` has the
requests.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from contextlib import suppress

from sanic.exceptions import RequestCancelled
from sanic.server import HttpProtocol

from sparkd.adapters.links import break_off, untaken_bytes
from sparkd.gateway.http.pacing import Pacing
from sparkd.gateway.http.unauthenticated import Unauthenticated

STALL_S = 60.0
"""How long a client may read next to nothing of its response."""
STALL_WANTED_S = 10.0
"""The same, while the end of that response is waited for."""
_STALL_BYTES = 16 << 10
"""Next to nothing: a reader below this per bound only wants to hold the model."""
_STALL_LOOK_S = 1.0
_LEFT_LOOK_S = 1.0
"""The pause between checks for a disconnect while reading is paused."""
_POLL_LEFT = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class ClientStalled(RequestCancelled):  # As the one that it is a kind of.
    """A client did not take its response, so its connection was broken off."""


class ClientLink(HttpProtocol):
    """One connection of a client, as Sanic's protocol class for connections."""

    __slots__ = ("pacing", "unauthenticated", "wanted")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.unauthenticated: Unauthenticated = self.app.ctx.unauthenticated
        self.pacing: Pacing = self.app.ctx.pacing
        self.wanted: Callable[[], bool] | None = None
        super().connection_made(transport)  # type: ignore[no-untyped-call]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport is not None and not self.transport.is_reading():
            self._look_whether_left()

    def _look_whether_left(self) -> None:
        """End the request of a client that disconnects while nothing is read from it.

        A client may send the next request behind one that is being answered. Above a size Sanic
        pauses the reading, and then asyncio does not see the end of the connection.
        """
        transport = self.transport
        if transport is None or transport.is_closing() or transport.is_reading():
            return
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), _POLL_LEFT)
        if poll.poll(0):
            transport.abort()
        else:
            self.loop.call_later(_LEFT_LOOK_S, self._look_whether_left)

    def count_as_unauthenticated(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.unauthenticated.add(self, self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.unauthenticated.remove(self)
        super().connection_lost(exc)  # type: ignore[no-untyped-call]

    async def send(self, data: bytes) -> None:
        """Write; wait first until the client has read the earlier pieces."""
        await self.drained()
        self.put(data)

    async def drained(self) -> None:
        """Wait until the client takes more. Raises RequestCancelled when it has left or stalls."""
        if not self._can_write.is_set():
            await self._taken()
        if self.gone():
            raise RequestCancelled

    def takes_more(self) -> bool:
        return self._can_write.is_set() and not self.gone()

    async def _taken(self) -> None:
        """Wait for a slow client; disconnect one that reads next to nothing."""
        left, since_s = self._untaken_bytes(), time.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_STALL_LOOK_S, STALL_S)):
                    await self._can_write.wait()
            if self._can_write.is_set():
                return
            now_s, still_left = time.monotonic(), self._untaken_bytes()
            if left - still_left >= _STALL_BYTES:
                left, since_s = still_left, now_s
            limit_s = STALL_WANTED_S if self.wanted is not None and self.wanted() else STALL_S
            if now_s - since_s >= limit_s and self.transport is not None:
                break_off(self.transport)
                raise ClientStalled

    def _untaken_bytes(self) -> int:
        return 0 if self.transport is None or self.gone() else untaken_bytes(self.transport)

    def gone(self) -> bool:
        """Whether the client has left, or was closed."""
        return self.transport is None or self.transport.is_closing()

    def put(self, data: bytes) -> bool:
        if self.transport is None or self.transport.is_closing():
            return False
        self.transport.write(data)
        self._time = time.monotonic()
        return self._can_write.is_set()
