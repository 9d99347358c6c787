# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 connections to one server on this machine.

Owns the sockets, their reuse, and the part of a response that waits in memory: bytes are passed on
as they arrive, and a slow reader stops the server. Only a request that no server can have seen is
sent a second time. A response that is not whole ends in `TransportError`, never as if it were.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, cast

from sparkd.core.http.response_parser import AnswerReader, request_head
from sparkd.core.json.spliced import Payload

_HELD_BYTES = 64 * 1024
"""The most to read at once; while more waits for a slow reader, nothing is read."""
_WRITE_BYTES = 256 * 1024
"""A body is written in pieces of this size; the write timeout is for each of them."""
_IDLE_S = 4.0
"""uvicorn closes what was idle for 5 s; a request that crosses with that would be lost."""
_QUEUE_PAUSE_S = 0.005


class TransportError(Exception):
    """An exchange that failed, with the reason as its text."""

    def __init__(self, reason: str, *, unseen: bool = False) -> None:
        super().__init__(reason)
        self.unseen = unseen
        """The server saw nothing of the request, so it may be sent to another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The longest waits of one exchange, in seconds; None waits without an end."""

    connect_s: float | None = None
    read_s: float | None = None
    """Between two pieces of the response."""
    write_s: float | None = None
    """For each piece of the request's body."""


class Sink(Protocol):
    """Where a body goes as it comes."""

    def put(self, data: bytes) -> bool:
        """Take this; whether more may follow before `drained`. Raises nothing."""

    async def drained(self) -> None:
        """Return when more may follow; raise when nothing more is wanted."""


class Exchange:
    """One request on its connection, and its response: `pour` its body, or iterate it.

    All methods that wait raise TransportError.
    """

    def __init__(self, connection: _Connection, method: str, timeouts: Timeouts) -> None:
        self.answer = AnswerReader(method)
        self._connection: _Connection | None = connection
        self._link = connection.link
        self._timeouts = timeouts
        self._sent = self._paused = False
        self._error: TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._put: Callable[[bytes], bool] | None = None

    async def ask(self, first: bytes, body: Payload, *, sent: int) -> None:
        """Send the request and return when the head of the answer is there.

        `first` is its head with the first piece of its body; so much of that was sent already.
        """
        given = _WRITE_BYTES
        if not self._link.is_closing():
            self._link.write(first[sent:])
        if self._link.is_closing() and not sent:
            raise TransportError("the server closed the connection before the request", unseen=True)
        while not self.answer.status:
            if self._connection is not None and self._connection.full:
                await self._changed(self._timeouts.write_s)
            elif given < len(body) and not self._link.is_closing():
                self._link.write(body[given : given + _WRITE_BYTES])
                given += _WRITE_BYTES
            else:
                await self._changed(self._timeouts.read_s)
        # Who answers before it heard all will not listen to the rest.
        self._sent = given >= len(body)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self.next()
        if not data:
            raise StopAsyncIteration
        return data

    async def next(self) -> bytes:
        """More of the body as it arrives; nothing at its end."""
        answer = self.answer
        while not answer.parts:
            if answer.whole:
                self._leave()
                return b""
            await self._changed(self._timeouts.read_s)
        data = answer.take()
        if answer.whole:
            self._leave()
        else:
            self._read_on()
        return data

    async def pour(self, sink: Sink) -> None:
        """Hand the body on to the end, each piece in the very call that read it.

        A sink that is full is waited for, while what comes is held back as for any slow reader.
        """
        answer = self.answer
        try:
            while True:
                if answer.parts:
                    sink.put(answer.take())
                if answer.whole:
                    self._leave()
                    return
                await sink.drained()
                if not answer.parts:
                    self._put = sink.put
                    self._read_on()
                    await self._changed(self._timeouts.read_s)
        finally:
            self._put = None

    async def close(self) -> None:
        """Done with it; the connection closes too unless the whole answer had come."""
        self.answer.parts.clear()
        self._fail(TransportError("the answer was closed before its end"))
        self._leave()
        self.wake()

    def received(self, data: memoryview) -> None:
        answer = self.answer
        answer.feed(data)
        if answer.flaw is not None:
            self._fail(TransportError(f"the server broke HTTP: {answer.flaw}"))
            self._link.abort()
        elif self._put is not None:
            more = not answer.parts or self._put(answer.take())
            if more and not answer.whole:
                return
            self._put = None
        elif answer.held_bytes > _HELD_BYTES and not answer.whole:
            self._paused = True
            self._link.pause_reading()
        self.wake()

    def lost(self, error: Exception | None) -> None:
        """Nothing more will come."""
        if error is None:
            self.answer.feed_end()
        where = "in the middle of" if self.answer.status else "before"
        self._fail(TransportError(f"the server closed the connection {where} its answer"))
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _read_on(self) -> None:
        if self._paused:
            self._paused = False
            self._link.resume_reading()

    async def _changed(self, limit_s: float | None) -> None:
        """Wait until something happened; raise what broke the exchange."""
        if self._error is not None:
            raise self._error
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        if limit_s is None:
            await waiter
            return
        try:
            async with asyncio.timeout(limit_s):
                await waiter
        except TimeoutError:
            raise TransportError(f"nothing happened for {limit_s:g} s") from None

    def _fail(self, error: TransportError) -> None:
        if not self.answer.whole and self._error is None:
            self._error = error

    def _leave(self) -> None:
        """Give the connection back, once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.free(reusable=self._sent and self.answer.whole and self.answer.reusable)


class _Connection(asyncio.BufferedProtocol):
    """One connection; what comes while nothing was asked closes it."""

    def __init__(self, owner: LocalTransport, method: str, timeouts: Timeouts) -> None:
        """For a first exchange, which begins with it."""
        self.exchange: Exchange | None = None
        self.full = False
        self._owner = owner
        self._first = method, timeouts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.link = cast(asyncio.Transport, transport)
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._owner.alive.add(self)
        self.begin(*self._first)

    def begin(self, method: str, timeouts: Timeouts) -> Exchange:
        """The next exchange, to be asked."""
        self.exchange = exchange = Exchange(self, method, timeouts)
        return exchange

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.exchange is None:
            self.link.abort()
        else:
            self.exchange.received(self._owner.buffer[:nbytes])

    def eof_received(self) -> None:
        self.connection_lost(None)  # asyncio would first wait until all is written.

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.alive.discard(self)
        self._owner.idle.pop(self, None)
        if self.exchange is not None:
            self.exchange.lost(exc)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.exchange is not None:
            self.exchange.wake()

    def free(self, *, reusable: bool) -> None:
        """The exchange is over."""
        self.exchange = None
        if reusable and not self.link.get_write_buffer_size() and not self.link.is_closing():
            self._owner.idle[self] = time.monotonic()
        else:
            self.link.abort()

    def quiet(self) -> bool:
        """Whether it is open and the server said nothing, to the kernel's latest knowledge."""
        return not self.link.is_closing() and not self._poll.poll(0)


class LocalTransport:
    """The connections to the server at a unix socket, or at a host and port."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        self._address = address
        self.idle: dict[_Connection, float] = {}
        """Since when; the last one was used last."""
        self.alive: set[_Connection] = set()
        # One for all: what was read is parsed, and copied from here, before the next read.
        self.buffer = memoryview(bytearray(_HELD_BYTES))

    async def send(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: Payload,
        timeouts: Timeouts,
    ) -> Exchange:
        """Send a request; returns when the head of its answer is there. Close what it returns.

        Raises TransportError.
        """
        try:
            head = request_head(method, target, headers, len(body))
        except ValueError as error:
            raise TransportError(str(error)) from None
        first = head + body[:_WRITE_BYTES]
        while True:
            reused = self._warm()
            if reused is not None:
                exchange, sent = reused.begin(method, timeouts), 0
            else:
                exchange, sent = await self._connect(method, timeouts, first)
            try:
                await exchange.ask(first, body, sent=sent)
            except BaseException as error:
                await exchange.close()
                if reused is None or not (isinstance(error, TransportError) and error.unseen):
                    raise
            else:
                return exchange

    async def close(self) -> None:
        for connection in list(self.alive):
            if connection.exchange is not None:
                await connection.exchange.close()
            connection.link.abort()
        await asyncio.sleep(0)  # The loop closes the descriptors in its next turn.

    def _warm(self) -> _Connection | None:
        """The connection that was used last and can be used again."""
        while self.idle:
            connection, since_s = self.idle.popitem()
            if time.monotonic() - since_s < _IDLE_S and connection.quiet():
                return connection
            connection.link.abort()
        return None

    async def _connect(self, method: str, timeouts: Timeouts, first: bytes) -> tuple[Exchange, int]:
        """A new connection with its first exchange, and how much was sent on it already."""
        loop, limit_s, sent = asyncio.get_running_loop(), timeouts.connect_s, 0

        def connection() -> _Connection:
            return _Connection(self, method, timeouts)

        try:
            if isinstance(self._address, str):
                async with asyncio.timeout(limit_s):
                    link = await _joined(self._address)
                sent = _sent_at_once(link, first)
                _, made = await loop.create_unix_connection(connection, sock=link)
            else:
                async with asyncio.timeout(limit_s):
                    _, made = await loop.create_connection(connection, *self._address)
        except TimeoutError:
            raise TransportError(f"no connection within {limit_s} s", unseen=True) from None
        except OSError as error:
            raise TransportError(str(error), unseen=not sent) from error
        assert made.exchange is not None
        return made.exchange, sent


def _sent_at_once(link: socket.socket, first: bytes) -> int:
    """How much of it a new connection takes.

    The loop needs two turns until a connection is one of its own, and a turn may be long: by then
    the server has read the request.
    """
    try:
        return link.send(first)
    except OSError:
        return 0  # The loop finds out what is wrong with it.


async def _joined(path: str) -> socket.socket:
    """A connected socket; asyncio takes a full listen queue for a connection on its way.

    The directory is the server's to write in: what it puts in the place of its socket must not
    lead to another one, such as Podman's, the bus, or another model's. So a link is not followed.
    """
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    link = socket.socket(socket.AF_UNIX)
    try:
        link.settimeout(0)
        while (code := link.connect_ex(f"/proc/self/fd/{place}")) == errno.EAGAIN:  # noqa: ASYNC110
            await asyncio.sleep(_QUEUE_PAUSE_S)
        if code:
            raise OSError(code, os.strerror(code), path)
    except BaseException:
        link.close()
        raise
    finally:
        os.close(place)
    return link
