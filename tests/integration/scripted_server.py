# SPDX-License-Identifier: Apache-2.0
"""Servers on a unix socket that say what a script tells them: stands in for no engine, but for
whatever an engine may do to a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
DEADLINE_S = 60.0


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.requests: list[bytes] = []
        self.sent_bytes = 0
        self.client_left = asyncio.Event()
        self.told = asyncio.Event()
        """For the test to say when the script may go on."""

    async def request(self) -> bytes:
        """One whole request; IncompleteReadError when the client left."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.requests.append(head + await self.reader.readexactly(size))
        return self.requests[-1]

    async def send(self, data: bytes, *, bytewise: bool = False) -> None:
        for piece in (data[at : at + 1] for at in range(len(data))) if bytewise else (data,):
            if self.writer.transport.is_closing():
                raise ConnectionResetError
            self.writer.write(piece)
            self.sent_bytes += len(piece)
            # The client shares this loop: a turn or two and it has read the byte.
            await asyncio.sleep(0)
            await self.writer.drain()

    async def read_on(self) -> None:
        """Read until the client has closed the connection."""
        while await self.reader.read(65536):
            pass
        self.client_left.set()

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def start_reading(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    def reset(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Server:
    """Runs the script on each connection, then closes it."""

    def __init__(self, path: str, script: Script) -> None:
        self.path = path
        self.script = script
        self.peers: list[Peer] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=1 << 24)

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert [r for r in results if isinstance(r, AssertionError)] == []

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(Peer(reader, writer))
        self._tasks.add(asyncio.ensure_future(self._run(self.peers[-1])))

    async def _run(self, peer: Peer) -> None:
        try:
            await self.script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            peer.client_left.set()
        finally:
            peer.writer.close()
            with contextlib.suppress(ConnectionError):
                await peer.writer.wait_closed()

    @property
    def requests(self) -> list[bytes]:
        return [request for peer in self.peers for request in peer.requests]


Serve = Callable[[Script], Awaitable[Server]]


@contextlib.asynccontextmanager
async def servers_at(path: str) -> AsyncIterator[Serve]:
    """What starts servers on this socket, one after the other; all end with it."""
    servers: list[Server] = []

    async def start(script: Script) -> Server:
        server = Server(path, script)
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


def always(answer: bytes, *, bytewise: bool = False) -> Script:
    """Gives this answer to each request of a connection."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answer, bytewise=bytewise)

    return script


def once(*pieces: bytes, bytewise: bool = False, pause_s: float = 0.0) -> Script:
    """Answers one request, in pieces, then closes the connection in order."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            await peer.send(piece, bytewise=bytewise)
            await asyncio.sleep(pause_s)

    return script


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def left(peer: Peer) -> None:
    """Wait until the server has seen that the client closed the connection."""
    async with asyncio.timeout(DEADLINE_S):
        await peer.client_left.wait()
