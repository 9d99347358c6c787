# SPDX-License-Identifier: Apache-2.0
"""`GET /events`: events of models as server-sent events, as long as the client reads.

A listener keeps neither a model nor the daemon running. When the daemon stops, the last
thing it says is how long an EventSource shall wait before it comes back, because coming back
starts the daemon again.
"""

from __future__ import annotations

import asyncio
import time

from sparkd.core.access import auth
from sparkd.core.access.auth import Access
from sparkd.core.access.visibility import Visibility
from sparkd.core.errors import RequestError
from sparkd.core.http.sse import comment
from sparkd.core.numbers import bounded_float, bounded_int
from sparkd.core.telemetry.events import as_sse
from sparkd.gateway.admission import admitted, key_of, visibility_of
from sparkd.gateway.context import Context
from sparkd.gateway.http.messages import Request, ResponseStream, Route
from sparkd.gateway.http.request_id import HEADER
from sparkd.observe.event_feed import Listener, ListenerLostError

_ALIVE_S = 15.0
"""A comment now and then finds out that a client is gone, and keeps proxies from hanging up."""
_STALL_S = 10.0
"""A client that reads nothing for this long is disconnected."""
_COME_BACK_MS = 300_000
_LATEST_US = (1 << 53) - 1
"""The latest moment that an event can have as its id, in microseconds since 1970."""


async def tell(request: Request) -> None:
    """Events after `Last-Event-ID`, or of the `last` seconds; `requests=1` adds each request.

    Events of requests are for admins only; those of models follow from /status too.
    """
    context = admitted(request)
    after_us = _after_us(request)
    chatty = request.query.get("requests", "0") not in ("0", "false")
    key = key_of(request)
    if chatty:
        auth.require(key, Access.ADMIN)
    with context.meters.of(key).listening(key):
        await _listen(request, context, after_us, chatty=chatty)


async def _listen(
    request: Request, context: Context, after_us: int | None, *, chatty: bool
) -> None:
    key = key_of(request)
    async with context.events.listen(after_us, chatty=chatty, of=key.may_use) as listener:
        headers = {"cache-control": "no-cache", HEADER: request.id}
        response = await request.respond(headers=headers, content_type="text/event-stream")
        try:
            await _tell(context, listener, response, visibility_of(request))
        except (TimeoutError, ListenerLostError):
            request.abort()


async def _tell(
    context: Context, listener: Listener, response: ResponseStream, visibility: Visibility
) -> None:
    await _send(response, comment("sparkd tells what happens"))
    leaving = asyncio.ensure_future(context.leaving.wait())
    try:
        while True:
            coming = asyncio.ensure_future(listener.next())
            try:
                await asyncio.wait(
                    {coming, leaving}, timeout=_ALIVE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if coming.done():
                    await _send(response, as_sse(visibility.event(coming.result())))
                elif leaving.done():
                    await _send(response, f"retry: {_COME_BACK_MS}\n".encode() + _LEFT)
                    await response.send(b"", end=True)
                    return
                else:
                    await _send(response, comment("alive"))
            finally:
                coming.cancel()
    finally:
        leaving.cancel()


_LEFT = b'event: left\ndata: {"event": "left", "text": "sparkd leaves; a request starts it"}\n\n'


async def _send(response: ResponseStream, data: bytes) -> None:
    async with asyncio.timeout(_STALL_S):
        await response.send(data)


def _after_us(request: Request) -> int | None:
    """The moment after which events are wanted. Raises RequestError."""
    last_id = request.headers.get("last-event-id", "")
    if (after_us := bounded_int(last_id, most=_LATEST_US)) is not None:
        return after_us
    last_s = request.query.get("last")
    if last_s is None:
        return None
    ago_s = bounded_float(last_s, most=_LATEST_US / 1e6)
    if ago_s is not None:
        return max(0, time.time_ns() // 1000 - round(ago_s * 1e6))
    raise RequestError(
        f"last={last_s[:40]!r} is not a number of seconds",
        hint="/events?last=600",
        code="bad_request",
    )


ROUTES = (
    Route(
        path="/events",
        handler=tell,
        access=Access.ANY,
        methods=("GET",),
        answers="text/event-stream",
    ),
)
