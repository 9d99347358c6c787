# SPDX-License-Identifier: Apache-2.0
"""`GET /logs/MODEL`: the output of a model as plain text, with `follow=1` as it comes.

journalctl reads it from the journal, and runs only as long as the client reads. A
reader keeps neither the model nor the daemon running.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from sparkd.adapters.journal.reader import follow, logged, model_log, read
from sparkd.core.access.auth import Access
from sparkd.core.catalog import lookup
from sparkd.core.errors import RequestError
from sparkd.core.numbers import bounded_int
from sparkd.gateway.admission import admitted, key_of
from sparkd.gateway.http.messages import Request, ResponseStream, Route
from sparkd.gateway.http.request_id import HEADER

_LINES = 200
_LINES_MOST = 10_000
_STALL_S = 10.0
"""A client that reads nothing for this long is disconnected."""


async def show_log(request: Request, model_id: str) -> None:
    """The last `lines` of a model's output; `follow=1` continues."""
    context = admitted(request)
    spec = lookup.resolve(context.config, unquote(model_id), key_of(request)).spec
    following = request.query.get("follow", "0") not in ("0", "false")
    arguments = (f"--lines={_lines(request)}", *model_log(spec.model_id))
    source = (follow if following else read)(*arguments)
    headers = {"cache-control": "no-cache", HEADER: request.id}
    response = await request.respond(headers=headers, content_type="text/plain; charset=utf-8")
    ended = asyncio.ensure_future(context.leaving.wait())
    try:
        async with contextlib.aclosing(source) as lines:
            await _copy(lines, response, ended)
        await response.send(b"", end=True)
    except TimeoutError:
        request.abort()
    finally:
        ended.cancel()


async def _copy(
    lines: AsyncIterator[bytes], response: ResponseStream, ended: asyncio.Future[Any]
) -> None:
    """Pass lines on until there are no more, or the daemon leaves."""
    while True:
        coming = asyncio.ensure_future(anext(lines, None))
        try:
            await asyncio.wait({coming, ended}, return_when=asyncio.FIRST_COMPLETED)
            line = coming.result() if coming.done() else None
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        if line is None:
            return
        if (text := logged(line)) is None:
            continue
        async with asyncio.timeout(_STALL_S):
            await response.send(text.encode(errors="replace"))


def _lines(request: Request) -> int:
    """How many lines are wanted. Raises RequestError."""
    text = request.query.get("lines", str(_LINES))
    lines = bounded_int(text, most=_LINES_MOST)
    if lines is not None:
        return lines
    raise RequestError(
        f"lines={text[:40]!r} is not a number up to {_LINES_MOST}", hint="?lines=200", param="lines"
    )


ROUTES = (
    Route(
        path="/logs/<model_id:path>",
        handler=show_log,
        access=Access.ADMIN,
        methods=("GET",),
        answers="text/plain",
    ),
)
