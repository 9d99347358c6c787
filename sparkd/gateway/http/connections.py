# SPDX-License-Identifier: Apache-2.0
"""The open client connections of a server that stops: none is cut before it had its chance.

A connection that was accepted but has sent nothing yet may hold a request that is on its way;
closing it at once would lose that request, so it gets a moment. One that already had an answer is
closed as soon as it is idle, as HTTP/1.1 allows at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from sanic.http import Stage
from sanic.server.async_server import AsyncioServer

from sparkd.gateway.http.open_requests import OpenRequests

_FIRST_REQUEST_S = 1.0
"""How long an accepted connection may take to send its first byte while we stop."""
_PAUSE_S = 0.02


class Connections:
    """Reads Sanic's own set of connections; `HttpProtocol` has `_http.stage` and `state`."""

    def __init__(self, servers: Sequence[AsyncioServer]) -> None:
        self._servers = servers

    async def drain(self, requests: OpenRequests) -> None:
        """Return when every request has been answered and every connection is closed."""
        began_s = time.monotonic()
        while True:
            # A loop turn lets connections that were accepted a moment ago appear in the set.
            await asyncio.sleep(_PAUSE_S)
            fresh_may_wait = time.monotonic() - began_s < _FIRST_REQUEST_S
            for connection in self._all():
                self._close_if_done(connection, fresh_may_wait=fresh_may_wait)
            if requests.count == 0 and not self._all():
                return

    async def drained(self, requests: OpenRequests, within_s: float) -> bool:
        """Whether `drain` came to its end within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.drain(requests)
                return True
        return False

    def abort(self) -> None:
        """Cut the connections that are left."""
        for connection in self._all():
            connection.abort()

    def _all(self) -> list[Any]:
        return [connection for server in self._servers for connection in server.connections]

    def _close_if_done(self, connection: Any, *, fresh_may_wait: bool) -> None:  # noqa: ANN401
        http = connection.http
        if http is None or http.stage is Stage.IDLE:
            answered = http is not None and http.request is not None
            if answered or not fresh_may_wait:
                connection.close_if_idle()
        else:
            # Its answer is its last: the connection closes itself after it.
            http.keep_alive = False
