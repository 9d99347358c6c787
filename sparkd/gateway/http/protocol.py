# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 on the wire of a client: Sanic's protocol, with reading and framing made exact.

Sanic reads heads and chunks leniently, answers HTTP/1.0 in chunks, and forgets to read on after a
large body, so that it does not see its client leave. Its seams are `create_server(protocol=...)`
and `HTTP_CLASS`. The overridden methods are whole steps of the cycle in `Http.http1` of Sanic
25.12.1, the version that the package carries. tests/unit/gateway/http/test_protocol.py
fails when another comes, so that they are compared again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from sanic.compat import Header
from sanic.exceptions import (
    BadRequest,
    ExpectationFailed,
    RequestTimeout,
    ServerError,
)
from sanic.helpers import has_message_body
from sanic.http import Http, Stage
from sanic.http.http1 import HTTP_CONTINUE
from sanic.request import Request

from sparkd.adapters.links import break_off
from sparkd.core import errors
from sparkd.core.http.paths import canonical
from sparkd.core.http.request_parser import (
    HEAD_BYTES,
    ChunkedBody,
    HeadTooLarge,
    Malformed,
    RequestHead,
    head_end,
    parse_head,
)
from sparkd.gateway.http.client_link import ClientLink

HEAD_S = 30.0
"""How long the head of a request may take, from its first byte to its last."""
KEEP_ALIVE_S = 125.0
"""How long an idle connection is kept: proxies keep theirs for 60 to 120 s and reuse them."""
_TOLD_KEEP_ALIVE_S = 120
"""The value of `keep-alive: timeout=`; a client that obeys it never meets the close."""
LINGER_S = 30.0
"""How long the rest of a refused request is discarded, so that its client can read the answer: a
close with unread bytes would reset the connection."""
_LINGER_BODIES = 2
"""How many times `body_limit` of it is discarded."""
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}" for status in HTTPStatus}


class ClientRequest(Request):
    """A request whose body only its handler reads.

    Sanic would read the whole body before it calls the handler, and so before the key is checked.
    """

    async def receive_body(self) -> None:
        """Read nothing."""


class HttpCycle(Http):
    """One connection: reads the requests on it, and frames the answers."""

    __slots__ = ("_body", "_chunked", "_head", "_left", "_unread")

    # Attributes that Sanic sets without a type.
    protocol: ClientProtocol
    request_body: bool | None  # type: ignore[assignment]
    request_bytes: int
    request_bytes_left: int
    response_func: Callable[[bytes, bool], Awaitable[None]] | None  # type: ignore[assignment]

    def init_for_request(self) -> None:
        super().init_for_request()  # type: ignore[no-untyped-call]
        self._head: RequestHead | None = None
        self._body: ChunkedBody | None = None
        self.protocol.wanted = None
        self._unread = False
        self.protocol.count_as_unauthenticated()

    async def http1(self) -> None:
        """Serve the connection; an answer that comes before its request has ended is readable."""
        await super().http1()  # type: ignore[no-untyped-call]
        if self._unread and not self.protocol.gone():
            await self._linger()

    async def _linger(self) -> None:
        """Send EOF, then discard further bytes, within limits."""
        transport, buffer = self.protocol.transport, self.recv_buffer
        assert transport is not None
        if transport.can_write_eof():
            transport.write_eof()
        left_bytes = self.protocol.app.ctx.body_limit_bytes() * _LINGER_BODIES
        try:
            async with asyncio.timeout(LINGER_S):
                while left_bytes > 0:
                    left_bytes -= len(buffer)
                    buffer.clear()
                    await self._receive_more()
        except TimeoutError:
            return

    async def http1_request_header(self) -> None:
        """Receive the head of a request, and make Sanic's `Request` of it."""
        buffer, protocol = self.recv_buffer, self.protocol
        await protocol.pacing.take()
        # Some clients end a body with an extra line (RFC 9112, 2.2).
        if buffer == b"\r":
            await self._receive_more()
        if buffer.startswith(b"\r\n"):
            del buffer[:2]
        try:
            end = head_end(buffer, HEAD_BYTES)
            if end is None:
                end = await self._rest_of_head()
            raw = bytes(buffer[:end])
            self._head = head = parse_head(raw)
        except HeadTooLarge as error:
            self._unread = True
            raise errors.HeadTooLarge(
                str(error), hint="delete the cookies of this host, or send fewer headers"
            ) from None
        except Malformed as error:
            self._unread = True
            raise BadRequest(f"this is not HTTP/1.1: {error}") from None
        del buffer[: end + 4]
        self.head_only = head.method == "HEAD"
        self.keep_alive = head.keep_alive
        request = protocol.request_class(
            url_bytes=canonical(head.target),
            headers=head.headers,  # type: ignore[arg-type]  # It makes a `Header` of it.
            head=raw,
            version=f"1.{head.minor}",
            method=head.method,
            transport=protocol.transport,  # type: ignore[arg-type]
            app=protocol.app,
        )
        self._expect_body(head, request.headers.get("expect"))
        self.request, request.stream = request, self
        protocol.state["requests_count"] += 1

    async def _rest_of_head(self) -> int:
        """Where the head ends; one that comes byte by byte must have come in time all the same."""
        try:
            async with asyncio.timeout(HEAD_S):
                while True:
                    seen_bytes = len(self.recv_buffer)
                    await self._receive_more()
                    end = head_end(self.recv_buffer, HEAD_BYTES, seen_bytes)
                    if end is not None:
                        return end
        except TimeoutError:
            raise RequestTimeout(f"the head did not come within {HEAD_S:g} s") from None

    def _expect_body(self, head: RequestHead, expected: str | None) -> None:
        self.request_bytes = self.request_bytes_left = head.length or 0
        if head.length == 0:
            return
        self.request_body = True
        if head.length is None:
            self._body = ChunkedBody()
        if expected is not None and head.minor:
            if expected.lower() != "100-continue":
                raise ExpectationFailed(f"unsupported Expect header {expected[:80]!r}")
            self.expecting_continue = True

    def body_is_at_hand(self) -> bool:
        """Whether the next `read` returns without waiting for the client."""
        return not self.request_body or (
            self._body is None and (bool(self.recv_buffer) or not self.request_bytes_left)
        )

    async def read(self) -> bytes | None:
        """Some bytes of the body as they come; None at its end."""
        if not self.request_body:
            return None
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(HTTP_CONTINUE)
        data = await (self._read_counted() if self._body is None else self._read_chunk(self._body))
        if data:
            return data
        self.request_body = None
        if self.protocol.transport is not None:
            # Sanic pauses a client that sent more than it buffers; its disconnect must be seen.
            self.protocol.transport.resume_reading()
        return None

    def admit(self) -> None:
        """Note that the request has shown a key: it is not to be broken off for another."""
        self.protocol.unauthenticated.remove(self.protocol)

    def give_up_body(self) -> None:
        """Read no more of the body; the answer is the last on this connection."""
        self.request_body, self.keep_alive, self._unread = None, False, True

    def _leave_body(self) -> None:
        """Begin the answer to a request whose body was not read to its end."""
        arrived = self._body is None and self.request_bytes_left <= len(self.recv_buffer)
        if arrived and not self.expecting_continue:
            del self.recv_buffer[: self.request_bytes_left]
            self.request_body = None
        else:
            # After this answer, a client that waits for "100 Continue" need not send the body.
            self.expecting_continue = False
            self.give_up_body()

    async def _read_counted(self) -> bytes:
        buffer = self.recv_buffer
        if self.request_bytes_left and not buffer:
            await self._receive_more()
        data = bytes(buffer[: self.request_bytes_left])
        del buffer[: len(data)]
        self.request_bytes_left -= len(data)
        return data

    async def _read_chunk(self, body: ChunkedBody) -> bytes:
        try:
            while not (data := body.take(self.recv_buffer)) and not body.whole:
                await self._receive_more()
        except Malformed as error:
            # Its end is unknown, so no further byte is read.
            self.give_up_body()
            raise BadRequest(f"the body is not in chunks: {error}") from None
        self.request_bytes += len(data)
        return data

    async def http1_response_header(self, data: bytes, end_stream: bool) -> None:  # noqa: FBT001
        """Send the head of the answer, and as much of its body as there is."""
        response, old = self.response, self._head is not None and not self._head.minor
        headers = response.headers
        if not data and response.body:
            data, end_stream = response.body, True
        self._chunked, self._left = False, None
        if not has_message_body(response.status):
            headers.popall("content-length", None)
            data, end_stream = b"", True
        elif end_stream:
            headers["content-length"] = str(len(data))
        elif "content-length" in headers:
            self._left = int(headers["content-length"])
        elif old:
            self.keep_alive = False
        else:
            headers["transfer-encoding"] = "chunked"
            self._chunked = True
        if self.request_body:
            self._leave_body()
        if old or not self.keep_alive:
            headers["connection"] = "keep-alive" if self.keep_alive else "close"
        if self.keep_alive:
            headers["keep-alive"] = f"timeout={_TOLD_KEEP_ALIVE_S}"
        if response.content_type and has_message_body(response.status):
            headers.setdefault("content-type", response.content_type)
        head = _head(response.status, headers)
        self.response_func = None if end_stream else self._send_more
        await self._send(head if self.head_only else head + self._framed(data))
        self.stage = Stage.IDLE if end_stream else Stage.RESPONSE

    async def error_response(self, exception: Exception) -> None:
        """Respond with the error, unless the client has left."""
        if self.protocol.gone():
            self.keep_alive = False
        else:
            await super().error_response(exception)

    async def _send_more(self, data: bytes, end_stream: bool) -> None:  # noqa: FBT001
        framed = self._framed(data)
        if end_stream:
            if self._left:
                raise ServerError(f"the answer ended {self._left} bytes early")
            framed += b"0\r\n\r\n" if self._chunked else b""
            self.response_func = None
            self.stage = Stage.IDLE
        if framed:
            await self._send(framed)

    def put(self, data: bytes) -> bool:
        """Send more of the body without waiting; whether the client takes still more at once."""
        return self.protocol.put(self._framed(data))

    def takes_more(self) -> bool:
        """Whether the next bytes go out at once."""
        return self.protocol.takes_more()

    def hurry_when(self, wanted: Callable[[], bool]) -> None:
        """Give a client that does not read less time while `wanted` is true."""
        self.protocol.wanted = wanted

    async def drained(self) -> None:
        """Wait until the client takes more. Raises RequestCancelled when it has left or stalls."""
        await self.protocol.drained()

    def cut(self) -> None:
        """Break the connection, where an orderly end could be taken for that of the answer."""
        self.keep_alive, self.response_func, self.stage = False, None, Stage.IDLE
        transport = self.protocol.transport
        if transport is not None and not transport.is_closing():
            break_off(transport)

    def _framed(self, data: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(data)
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data


class ClientProtocol(ClientLink):
    """A connection whose requests `HttpCycle` reads."""

    __slots__ = ()
    HTTP_CLASS = HttpCycle


def _head(status: int, headers: Header) -> bytes:
    lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} "]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    raw = "\r\n".join(lines).encode("utf-8", "surrogateescape")
    breaks = len(lines) - 1
    if raw.count(b"\n") != breaks or raw.count(b"\r") != breaks or b"\0" in raw:
        raise ServerError("a header of the answer holds a line break or a zero byte")
    return raw + b"\r\n\r\n"
