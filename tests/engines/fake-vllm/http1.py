# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 server side: one connection, its requests, and the replies to them.

Owns framing: it takes requests off the socket exactly as they came, hands each to one coroutine,
cancels that coroutine when the client leaves, and writes what it replies. It also writes wrong
HTTP when told to. What a request means is not its business.
"""

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

HEAD_LIMIT_BYTES = 256 * 1024
JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Handler = Callable[[Request, "Connection"], Awaitable[None]]


class Connection(asyncio.Protocol):
    """Serves the requests of one client one after the other."""

    def __init__(self, handler: Handler, open_connections: set["Connection"]) -> None:
        self._handler = handler
        self._open = open_connections
        self._buffer = bytearray()
        self._head: tuple[str, str, tuple[tuple[str, str], ...]] | None = None
        self._length = 0
        self._chunked_body: bytearray | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        self._may_write.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        if self._task is not None or self._transport.is_closing():
            return
        try:
            request = self._next_request()
        except ValueError:
            self.send(400, b'{"detail":"Invalid HTTP request received."}')
            self._transport.close()
            return
        if request is not None:
            self._task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        try:
            await self._handler(request, self)
        finally:
            self._task = None
        if self._closing:
            self._transport.close()
        else:
            self._advance()

    def _next_request(self) -> Request | None:
        if self._head is None and not self._read_head():
            return None
        assert self._head is not None
        if self._chunked_body is not None:
            if not self._read_chunks():
                return None
            body = bytes(self._chunked_body)
        else:
            if len(self._buffer) < self._length:
                return None
            body = bytes(self._buffer[: self._length])
            del self._buffer[: self._length]
        method, target, headers = self._head
        self._head, self._chunked_body, self._length = None, None, 0
        return Request(method=method, target=target, headers=headers, body=body)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT_BYTES:
                raise ValueError("the head of the request is too long")
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        method, target, version = first.split(" ")
        headers = []
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError("a header without a colon")
            headers.append((name, value.strip()))
            self._note_header(name.lower(), value.strip().lower())
        self._closing = self._closing or version == "HTTP/1.0"
        self._head = (method, target, tuple(headers))
        return True

    def _note_header(self, name: str, value: str) -> None:
        if name == "content-length":
            self._length = int(value)
        elif name == "transfer-encoding" and value == "chunked":
            self._chunked_body = bytearray()
        elif name == "connection" and value == "close":
            self._closing = True
        elif name == "expect" and value == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_chunks(self) -> bool:
        assert self._chunked_body is not None
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:end].partition(b";")[0], 16)
            if len(self._buffer) < end + 2 + size + 2:
                return False
            self._chunked_body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 2 + size + 2]
            if size == 0:
                return True
        return False

    def send(
        self,
        status: int,
        body: bytes,
        *,
        kind: str = JSON,
        headers: Mapping[str, str] | None = None,
        sent_bytes: int | None = None,
    ) -> None:
        """One whole reply; with `sent_bytes` the body breaks off there and the client waits."""
        head = _head(status, {"content-length": str(len(body)), "content-type": kind}, headers)
        self._transport.write(head + body[:sent_bytes])

    def start_stream(self, *, headers: Mapping[str, str] | None = None) -> None:
        own = {"content-type": EVENT_STREAM, "transfer-encoding": "chunked"}
        self._transport.write(_head(200, own, headers))

    def chunk(self, data: bytes) -> None:
        if data:
            self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self._transport.write(b"0\r\n\r\n")

    def raw(self, data: bytes) -> None:
        self._transport.write(data)

    def hang_up(self) -> None:
        """Closes after what is written, without the end that the reply promised."""
        self._closing = True
        self._transport.close()

    async def drained(self) -> None:
        await self._may_write.wait()


_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n" for s in HTTPStatus}
_dates: dict[int, str] = {}


def _date() -> str:
    now = int(time.time())
    if now not in _dates:
        _dates.clear()
        _dates[now] = email.utils.formatdate(now, usegmt=True)
    return _dates[now]


def _head(status: int, own: Mapping[str, str], extra: Mapping[str, str] | None) -> bytes:
    line = _STATUS_LINES.get(status, f"HTTP/1.1 {status} Unknown\r\n")
    fields = {"date": _date(), "server": "uvicorn", **own, **(extra or {})}
    text = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    return f"{line}{text}\r\n".encode("latin-1")
