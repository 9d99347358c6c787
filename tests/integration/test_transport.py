# SPDX-License-Identifier: Apache-2.0
"""The transport against servers that say what a script tells them, on real sockets.

Every test takes answers both ways that there are: iterated over, and poured.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sparkd.adapters.engine import transport as transport_module
from sparkd.adapters.engine.transport import (
    Exchange,
    LocalTransport,
    Timeouts,
    TransportError,
)
from sparkd.core.http.response_parser import AnswerReader
from sparkd.core.json.spliced import Payload, Spliced

from .scripted_server import (
    CHUNKED,
    DEADLINE_S,
    HELLO,
    OK,
    Peer,
    Serve,
    Server,
    always,
    left,
    once,
    servers_at,
    until,
)

pytestmark = pytest.mark.integration

HOST = [("host", "model")]
FOREVER = Timeouts()


@pytest.fixture(params=["iterated", "poured"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow this is, connections are used again; one test is about those that are not.
    monkeypatch.setattr(transport_module, "_IDLE_S", 3600.0)
    take = poured if request.param == "poured" else iterated
    monkeypatch.setattr(sys.modules[__name__], "take_all", take)


@contextlib.contextmanager
def refused_unseen(words: str | None = None) -> Iterator[None]:
    """A failure of which the server saw nothing."""
    with pytest.raises(TransportError, match=words) as caught:
        yield
    assert caught.value.unseen


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    async with servers_at(str(tmp_path / "api.sock")) as start:
        yield start


@pytest.fixture
async def transport(tmp_path: Path) -> AsyncIterator[LocalTransport]:
    transport = LocalTransport(str(tmp_path / "api.sock"))
    yield transport
    await transport.close()


@pytest.fixture(autouse=True)
async def no_descriptor_leaks() -> AsyncIterator[None]:
    """After server and transport are closed only the sockets of the loop itself are left."""
    before = sockets()
    yield
    await until(lambda: sockets() <= before)


def sockets() -> int:
    targets = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
    return len([target for target in targets if target.startswith("socket:")])


async def ask(
    transport: LocalTransport,
    body: Payload = b"{}",
    *,
    method: str = "POST",
    timeouts: Timeouts = FOREVER,
) -> Exchange:
    async with asyncio.timeout(DEADLINE_S):
        return await transport.send(method, "/v1/x", HOST, body, timeouts)


async def rest(exchange: Exchange) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        taken: list[bytes] = []
        try:
            await take_all(exchange, taken)
        finally:
            await exchange.close()
        return b"".join(taken)


async def iterated(exchange: Exchange, taken: list[bytes]) -> None:
    async for chunk in exchange:
        taken.append(chunk)


class Shelf:
    """A sink that is full after every third piece, for a turn of the loop."""

    def __init__(self, taken: list[bytes]) -> None:
        self._taken = taken

    def put(self, data: bytes) -> bool:
        self._taken.append(data)
        return len(self._taken) % 3 != 0

    async def drained(self) -> None:
        await asyncio.sleep(0)


async def poured(exchange: Exchange, taken: list[bytes]) -> None:
    await exchange.pour(Shelf(taken))


take_all = iterated


both_ways = pytest.mark.parametrize("bytewise", [False, True], ids=["at once", "bytewise"])


# What arrives.


@both_ways
@pytest.mark.parametrize(
    ("method", "answer", "status", "body", "connections"),
    [
        pytest.param("POST", HELLO, 200, b"hello", 1, id="content-length"),
        pytest.param(
            "POST", CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello", 1, id="chunked"
        ),
        pytest.param(
            "POST",
            CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX-Late: 1\r\n\r\n",
            200,
            b"hello",
            1,
            id="chunked with trailers",
        ),
        pytest.param(
            "POST", OK + b"Content-Length: 0\r\n\r\n", 200, b"", 1, id="empty content-length"
        ),
        pytest.param("POST", CHUNKED + b"0\r\n\r\n", 200, b"", 1, id="empty chunked"),
        pytest.param(
            "POST",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: </>\r\n\r\n" + HELLO,
            200,
            b"hello",
            1,
            id="after interim answers",
        ),
        pytest.param(
            "POST",
            b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nhello",
            500,
            b"hello",
            1,
            id="error status",
        ),
        pytest.param("POST", b"HTTP/1.1 204 No\r\n\r\n", 204, b"", 1, id="204"),
        pytest.param(
            "POST",
            b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n",
            304,
            b"",
            2,
            id="304 with a length",
        ),
        pytest.param(
            "HEAD", OK + b"Content-Length: 5\r\n\r\n", 200, b"", 2, id="HEAD with a length"
        ),
        pytest.param(
            "POST",
            OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
            200,
            b"hello",
            2,
            id="connection: close",
        ),
        pytest.param(
            "POST",
            b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            200,
            b"hello",
            2,
            id="HTTP/1.0",
        ),
        pytest.param("POST", HELLO + b"trailing", 200, b"hello", 2, id="trailing data"),
        pytest.param("POST", HELLO + HELLO, 200, b"hello", 2, id="a second answer"),
    ],
)
async def test_answer_arrives_and_connection_serves_again_only_if_it_can(
    serve: Serve,
    transport: LocalTransport,
    bytewise: bool,
    method: str,
    answer: bytes,
    status: int,
    body: bytes,
    connections: int,
) -> None:
    server = await serve(always(answer, bytewise=bytewise))
    for _ in range(2):
        exchange = await ask(transport, method=method)
        assert exchange.answer.status == status
        assert await rest(exchange) == body
        if connections > 1:
            # What trails behind may take a moment more.
            await until(lambda: not transport.alive)
    assert len(server.peers) == connections
    assert len(server.requests) == 2


@both_ways
async def test_body_without_a_length_ends_when_the_server_closes(
    serve: Serve, transport: LocalTransport, bytewise: bool
) -> None:
    server = await serve(once(OK + b"\r\nhello", bytewise=bytewise))
    for _ in range(2):
        assert await rest(await ask(transport)) == b"hello"
    assert len(server.peers) == 2


async def test_reset_connection_is_no_end_of_a_body_without_a_length(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.stop_reading()
        await peer.send(OK + b"\r\nhello")
        await asyncio.sleep(0.05)
        peer.reset()  # With much of the request unread.

    await serve(script)
    exchange = await ask(transport, b"x" * (32 << 20))
    with pytest.raises(TransportError, match="closed"):
        await rest(exchange)


async def test_request_arrives_byte_for_byte(serve: Serve, transport: LocalTransport) -> None:
    server = await serve(always(HELLO))
    headers = [("host", "model"), ("X-Bytes", "\xe9\udcff"), ("Content-Length", "1")]
    body = bytes(range(256))
    await rest(await transport.send("POST", "/v1/x?y=%20", headers, body, FOREVER))
    assert server.requests == [
        b"POST /v1/x?y=%20 HTTP/1.1\r\nhost: model\r\nX-Bytes: \xc3\xa9\xff\r\n"
        b"content-length: 256\r\n\r\n" + body
    ]


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 3_000_001])
async def test_body_of_any_size_arrives_whole(
    serve: Serve, transport: LocalTransport, size: int
) -> None:
    server = await serve(always(HELLO))
    body = os.urandom(size)
    pieces = [body[at : at + 100_001] for at in range(0, size, 100_001)]
    for sent in (body, Spliced(pieces)):
        assert await rest(await ask(transport, sent)) == b"hello"
    assert [request.split(b"\r\n\r\n", 1)[1] for request in server.requests] == [body, body]
    assert len(server.peers) == 1


async def test_chunks_are_passed_on_as_they_come(serve: Serve, transport: LocalTransport) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for word in (b"one", b"two", b"three"):
            await go_on.wait()
            go_on.clear()
            await peer.send(b"%x\r\n%b\r\n" % (len(word), word))
        await peer.send(b"0\r\n\r\n")

    await serve(script)
    exchange = await ask(transport)
    got = []
    go_on.set()
    async for chunk in exchange:
        got.append(chunk)
        go_on.set()
    assert got == [b"one", b"two", b"three"]


async def test_pieces_that_arrived_together_are_passed_on_together(
    serve: Serve, transport: LocalTransport
) -> None:
    await serve(once(CHUNKED + b"2\r\nhe\r\n" * 100 + b"0\r\n\r\n"))
    exchange = await ask(transport)
    assert [chunk async for chunk in exchange] == [b"he" * 100]


async def test_port_of_this_machine_works_like_a_socket(tmp_path: Path) -> None:
    server = Server("", always(HELLO))
    listener = await asyncio.start_server(server._accept, "127.0.0.1", 0)
    transport = LocalTransport(("127.0.0.1", listener.sockets[0].getsockname()[1]))
    for _ in range(2):
        assert await rest(await ask(transport)) == b"hello"
    assert len(server.peers) == 1
    await transport.close()
    server._server = listener
    await server.stop()
    with refused_unseen():
        await ask(transport)


# Which connection is used.


async def test_requests_one_after_another_use_one_connection(
    serve: Serve, transport: LocalTransport
) -> None:
    server = await serve(always(HELLO))
    for _ in range(50):
        assert await rest(await ask(transport)) == b"hello"
    assert len(server.peers) == 1


async def test_connection_is_free_as_soon_as_the_last_byte_is_read(
    serve: Serve, transport: LocalTransport
) -> None:
    server = await serve(always(HELLO))
    first = await ask(transport)
    assert await anext(aiter(first)) == b"hello"
    second = await ask(transport)
    assert await rest(first) == b""
    assert await rest(second) == b"hello"
    assert len(server.peers) == 1


async def test_whole_answer_that_nobody_read_leaves_the_connection_usable(
    serve: Serve, transport: LocalTransport
) -> None:
    server = await serve(always(HELLO))
    for _ in range(3):
        await (await ask(transport)).close()
    assert len(server.peers) == 1


async def test_exchange_that_ended_does_not_touch_the_next_one(
    serve: Serve, transport: LocalTransport
) -> None:
    server = await serve(always(HELLO))
    first = await ask(transport)
    assert await rest(first) == b"hello"
    second = await ask(transport)
    await first.close()
    assert await rest(second) == b"hello"
    assert len(server.peers) == 1


async def test_connection_that_the_server_closed_is_not_used(
    serve: Serve, transport: LocalTransport
) -> None:
    server = await serve(once(HELLO))
    for _ in range(3):
        assert await rest(await ask(transport)) == b"hello"
        await until(lambda: not transport.alive)
        assert not transport.idle
    assert len(server.requests) == len(server.peers) == 3


@pytest.mark.parametrize("stale", [b"", OK + b"Content-Length: 5\r\n\r\nstale"])
async def test_what_the_loop_has_not_read_yet_is_never_taken_for_the_next_answer(
    tmp_path: Path, transport: LocalTransport, stale: bytes
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "api.sock"))
    listener.listen()
    listener.setblocking(False)

    async def accepted() -> socket.socket:
        server, _ = await asyncio.get_running_loop().sock_accept(listener)
        server.sendall(HELLO)
        return server

    accepting = asyncio.ensure_future(accepted())
    assert await rest(await ask(transport)) == b"hello"
    first = await accepting
    accepting = asyncio.ensure_future(accepted())
    # From here until the request is sent the loop does not turn.
    first.sendall(stale) if stale else first.close()
    assert await rest(await transport.send("POST", "/", HOST, b"", FOREVER)) == b"hello"
    for end in (listener, first, await accepting):
        end.close()


async def test_connection_on_which_the_server_spoke_unasked_is_not_used(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO)
        await asyncio.sleep(0.02)
        await peer.send(HELLO)
        await peer.read_on()

    server = await serve(script)
    assert await rest(await ask(transport)) == b"hello"
    await left(server.peers[0])
    exchange = await ask(transport)
    assert await rest(exchange) == b"hello"
    assert len(server.peers) == 2


async def test_connection_that_was_idle_for_long_is_not_used(
    serve: Serve, transport: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(always(HELLO))
    assert await rest(await ask(transport)) == b"hello"
    assert await rest(await ask(transport)) == b"hello"
    assert len(server.peers) == 1
    monkeypatch.setattr(transport_module, "_IDLE_S", 0.0)
    assert await rest(await ask(transport)) == b"hello"
    assert len(server.peers) == 2
    await left(server.peers[0])


async def test_request_that_the_server_may_have_seen_is_not_sent_again(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO)
        await peer.request()

    server = await serve(script)
    assert await rest(await ask(transport)) == b"hello"
    with pytest.raises(TransportError, match="closed"):
        await ask(transport)
    assert len(server.peers) == 1
    assert len(server.requests) == 2


async def test_request_on_a_connection_that_broke_before_is_a_connect_error() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    transport = LocalTransport(listening.getsockname())
    asking = asyncio.ensure_future(ask(transport))
    async with asyncio.timeout(DEADLINE_S):
        while not transport.alive:
            await asyncio.sleep(0)  # It sends in the next turn of the loop.
    link = listening.accept()[0]
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
    listening.close()
    broken = select.poll()
    broken.register(next(iter(transport.alive)).link.get_extra_info("socket"), 0)
    assert broken.poll(DEADLINE_S * 1000), "the kernel has not told it"
    with refused_unseen():
        await asking
    await transport.close()


async def test_connection_that_broke_after_a_part_of_the_request_is_no_connect_error(
    transport: LocalTransport,
) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(transport._address)
    listening.listen()
    asking = asyncio.ensure_future(ask(transport, b"x" * (4 << 20)))
    await asyncio.sleep(0)
    listening.accept()[0].close()
    listening.close()
    with pytest.raises(TransportError, match="closed"):
        await asking


async def test_request_is_at_the_server_before_the_loop_has_turned(
    transport: LocalTransport,
) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(transport._address)
    listening.listen()
    body = b"x" * (4 << 20)
    asking = asyncio.ensure_future(ask(transport, body))
    await asyncio.sleep(0)
    link = listening.accept()[0]
    link.setblocking(False)
    came = link.recv(1 << 20)
    assert came.startswith(b"POST /v1/x HTTP/1.1\r\n")
    # All of it comes once, and closing the connection then is no failure to connect.
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_S):
        while not came.endswith(body):
            came += await loop.sock_recv(link, 1 << 20)
    assert came.count(b"\r\n\r\n" + body) == 1
    link.close()
    listening.close()
    with pytest.raises(TransportError, match="closed"):
        await asking


async def test_link_in_the_place_of_the_socket_leads_nowhere(
    serve: Serve, transport: LocalTransport, tmp_path: Path
) -> None:
    server = await serve(always(HELLO))
    assert await rest(await ask(transport)) == b"hello"
    await transport.close()
    place = Path(str(transport._address))
    place.rename(tmp_path / "another.sock")
    place.symlink_to(tmp_path / "another.sock")
    with refused_unseen("refused"):
        await ask(transport)
    assert len(server.requests) == 1


# What breaks.


@pytest.mark.parametrize(
    "answer",
    [
        HELLO,
        CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO,
    ],
    ids=["content-length", "chunked", "after 100"],
)
async def test_answer_cut_at_any_byte_is_an_error_and_never_ends_in_silence(
    serve: Serve, transport: LocalTransport, answer: bytes
) -> None:
    async def script(peer: Peer) -> None:
        size = int((await peer.request()).split(b"\r\n\r\n", 1)[1])
        await peer.send(answer[:size])

    await serve(script)
    for size in range(len(answer)):
        with pytest.raises(TransportError, match="closed"):
            await rest(await ask(transport, b"%d" % size))


async def test_what_came_before_the_break_is_passed_on(
    serve: Serve, transport: LocalTransport
) -> None:
    await serve(once(CHUNKED + b"5\r\nhello\r\n"))
    exchange = await ask(transport)
    assert await anext(aiter(exchange)) == b"hello"
    with pytest.raises(TransportError, match="closed"):
        await anext(aiter(exchange))
    await exchange.close()


@both_ways
@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"X: \0\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
        OK + b"X: 1\r\n" * 257 + b"\r\n",
    ],
)
async def test_malformed_head_is_a_protocol_error_and_closes_the_connection(
    serve: Serve, transport: LocalTransport, garbage: bytes, bytewise: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(garbage, bytewise=bytewise)
        await peer.read_on()

    server = await serve(script)
    with pytest.raises(TransportError, match="broke HTTP"):
        await ask(transport)
    await left(server.peers[0])


@both_ways
async def test_malformed_chunk_is_a_protocol_error_after_what_came_before(
    serve: Serve, transport: LocalTransport, bytewise: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\nzz\r\n", bytewise=bytewise)
        await peer.read_on()

    server = await serve(script)
    exchange = await ask(transport)
    got: list[bytes] = []
    with pytest.raises(TransportError, match="broke HTTP"):
        await take_all(exchange, got)
    assert b"".join(got) == b"hello"
    await left(server.peers[0])
    await exchange.close()


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (OK + b"X: ", b"a" * 8192),
        (OK, b"X: 1\r\n" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (CHUNKED + b"5;", b"a" * 8192),
        (CHUNKED + b"0\r\nX: ", b"a" * 8192),
    ],
    ids=["header", "headers", "interim answers", "chunk extension", "trailer"],
)
async def test_what_never_becomes_an_answer_is_a_protocol_error(
    serve: Serve, transport: LocalTransport, begin: bytes, more: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(begin)
        while True:
            await peer.send(more)

    server = await serve(script)
    with pytest.raises(TransportError, match="broke HTTP"):
        await rest(await ask(transport))
    await left(server.peers[0])


async def test_server_that_is_not_there_is_a_connect_error(
    tmp_path: Path, transport: LocalTransport
) -> None:
    with refused_unseen(r"api\.sock"):
        await ask(transport)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "api.sock"))
        with refused_unseen():
            await ask(transport)


async def test_full_listen_queue_is_waited_for_until_the_connect_timeout(
    tmp_path: Path, transport: LocalTransport
) -> None:
    path = str(tmp_path / "api.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    listener.setblocking(False)
    filler = socket.socket(socket.AF_UNIX)
    filler.connect(path)
    with refused_unseen("no connection within"):
        await ask(transport, timeouts=Timeouts(connect_s=0.1))
    asking = asyncio.ensure_future(ask(transport, timeouts=Timeouts(connect_s=60)))
    await asyncio.sleep(0.05)
    accepting = asyncio.get_running_loop().sock_accept
    async with asyncio.timeout(DEADLINE_S):
        accepted, _ = await accepting(listener)
        server, _ = await accepting(listener)
    server.sendall(HELLO)
    assert await rest(await asking) == b"hello"
    for end in (listener, filler, accepted, server):
        end.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nX-Half", CHUNKED + b"5\r\nhel"])
async def test_server_that_stalls_is_a_read_timeout_and_closes_the_connection(
    serve: Serve, transport: LocalTransport, said: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(said)
        await peer.read_on()

    server = await serve(script)
    with pytest.raises(TransportError, match="nothing happened for"):
        await rest(await ask(transport, timeouts=Timeouts(read_s=0.1)))
    await left(server.peers[0])


async def test_read_timeout_is_for_each_wait_and_not_for_the_answer(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(12):
            await asyncio.sleep(0.1)
            await peer.send(b"2\r\nhe\r\n")
        await peer.send(b"0\r\n\r\n")

    await serve(script)
    exchange = await ask(transport, timeouts=Timeouts(read_s=1.0))
    assert await rest(exchange) == b"he" * 12


async def test_server_that_reads_nothing_is_a_write_timeout(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        peer.stop_reading()
        await asyncio.sleep(DEADLINE_S)

    await serve(script)
    with pytest.raises(TransportError, match="nothing happened for"):
        await ask(transport, b"x" * (32 << 20), timeouts=Timeouts(write_s=0.2))


async def test_server_that_reads_slowly_is_no_write_timeout(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        left = 4 << 20
        while left > 0:
            left -= len(await peer.reader.read(1 << 17))
            await asyncio.sleep(0.04)
        await peer.send(HELLO)

    await serve(script)
    exchange = await ask(transport, b"x" * (4 << 20), timeouts=Timeouts(write_s=1.0))
    assert await rest(exchange) == b"hello"


async def test_answer_before_the_body_was_sent_is_taken_and_the_connection_closed(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.stop_reading()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nhello")
        await asyncio.sleep(0.1)
        peer.start_reading()
        await peer.read_on()

    server = await serve(script)
    exchange = await ask(transport, b"x" * (32 << 20))
    assert exchange.answer.status == 413
    assert await rest(exchange) == b"hello"
    await left(server.peers[0])
    await rest(await ask(transport, b"x" * (32 << 20)))
    assert len(server.peers) == 2


async def test_connection_with_a_body_cut_off_is_not_used_again_though_all_was_written(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(300_000)
        await peer.send(HELLO)
        await peer.read_on()

    server = await serve(script)
    exchange = await ask(transport, b"x" * (32 << 20))
    await asyncio.sleep(0.1)
    assert await rest(exchange) == b"hello"
    await left(server.peers[0])


async def test_connection_with_a_body_not_yet_written_is_not_used_again(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        peer.stop_reading()
        await peer.send(HELLO)
        await peer.told.wait()
        peer.start_reading()
        await peer.read_on()

    server = await serve(script)
    # More than a socket takes at once, and less than what makes the transport stop giving.
    exchange = await ask(transport, b"x" * 400_000)
    assert exchange._link.get_write_buffer_size() > 0
    server.peers[0].told.set()
    assert await rest(exchange) == b"hello"
    await left(server.peers[0])


async def test_server_that_closes_while_it_is_sent_a_body_is_an_error(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.reset()

    await serve(script)
    with pytest.raises(TransportError) as caught:
        await ask(transport, b"x" * (32 << 20))
    assert not caught.value.unseen


async def test_half_closed_connection_is_an_error_though_the_body_is_not_sent(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        peer.stop_reading()
        peer.writer.write_eof()
        await asyncio.sleep(DEADLINE_S)

    await serve(script)
    with pytest.raises(TransportError, match="closed"):
        await ask(transport, b"x" * (32 << 20))


async def test_request_with_a_line_break_in_a_header_is_refused_and_nothing_sent(
    serve: Serve, transport: LocalTransport
) -> None:
    server = await serve(always(HELLO))
    with pytest.raises(TransportError):
        await transport.send("POST", "/", [("x", "a\r\nhost: b")], b"", FOREVER)
    assert server.peers == []


# Who leaves.


async def test_cancelled_wait_for_the_head_closes_the_connection(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.read_on()

    server = await serve(script)
    asking = asyncio.ensure_future(ask(transport))
    await until(lambda: bool(server.requests))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await left(server.peers[0])


async def test_cancelled_sending_closes_the_connection(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.stop_reading()
        await asyncio.sleep(0.1)
        peer.start_reading()
        await peer.read_on()

    server = await serve(script)
    asking = asyncio.ensure_future(ask(transport, b"x" * (32 << 20)))
    await until(lambda: bool(server.peers))
    await asyncio.sleep(0.02)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await left(server.peers[0])


async def test_answer_closed_in_the_middle_closes_the_connection(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.read_on()

    server = await serve(script)
    exchange = await ask(transport)
    assert await anext(aiter(exchange)) == b"hello"
    await exchange.close()
    await left(server.peers[0])
    with pytest.raises(TransportError, match="closed"):
        await anext(aiter(exchange))


async def test_cancelled_wait_for_a_chunk_leaves_the_exchange_closable(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.read_on()

    server = await serve(script)
    exchange = await ask(transport)
    reading = asyncio.ensure_future(rest(exchange))
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await left(server.peers[0])


async def test_closed_transport_ends_every_exchange_with_an_error(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        if b"wait" not in await peer.request():
            await peer.send(OK + b"\r\nhello")
        await peer.read_on()

    server = await serve(script)
    exchange = await ask(transport)
    assert await anext(aiter(exchange)) == b"hello"
    waiting = asyncio.ensure_future(ask(transport, b"wait"))
    await until(lambda: len(server.requests) == 2)
    await transport.close()
    with pytest.raises(TransportError, match="closed"):
        await anext(aiter(exchange))
    with pytest.raises(TransportError, match="closed"):
        await waiting
    for peer in server.peers:
        await left(peer)


# How much at once.


async def test_slow_reader_stops_the_server_and_memory_does_not_grow(
    serve: Serve, transport: LocalTransport
) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    size = 512

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(size):
            await peer.send(chunk)
        await peer.send(b"0\r\n\r\n")

    server = await serve(script)
    exchange = await ask(transport)
    stopped_at = -1
    while stopped_at != server.peers[0].sent_bytes:
        stopped_at = server.peers[0].sent_bytes
        await asyncio.sleep(0.2)
    assert stopped_at < 1 << 20
    largest = taken = 0
    async for part in exchange:
        largest = max(largest, len(part))
        taken += len(part)
        if taken < 4 << 20:
            await asyncio.sleep(0.001)
    assert taken == size * 65536
    assert largest <= 128 * 1024
    await exchange.close()


@pytest.mark.parametrize("size", [65_000, 65_536, 100_000, 131_072, 300_000])
async def test_connection_serves_again_after_a_slow_reader_took_all(
    serve: Serve, transport: LocalTransport, size: int
) -> None:
    server = await serve(always(OK + b"Content-Length: %d\r\n\r\n" % size + b"x" * size))
    for _ in range(3):
        exchange = await ask(transport)
        await asyncio.sleep(0.02)
        assert await rest(exchange) == b"x" * size
    assert len(server.peers) == 1


async def test_server_that_dies_while_a_slow_reader_stops_it_is_an_error(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"10000\r\n" + b"x" * 65536 + b"\r\n" + b"40000\r\n" + b"y" * 999)
        peer.writer.transport.write(b"y" * 100_000)

    await serve(script)
    exchange = await ask(transport)
    await asyncio.sleep(0.1)
    with pytest.raises(TransportError, match="closed"):
        await rest(exchange)


async def test_256_streams_at_once_get_each_its_own_answer(
    serve: Serve, transport: LocalTransport
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            name = (await peer.request()).split(b"\r\n\r\n", 1)[1]
            await peer.send(CHUNKED)
            for number in range(20):
                word = b"%b:%d " % (name, number)
                await peer.send(b"%x\r\n%b\r\n" % (len(word), word))
                await asyncio.sleep(0)
            await peer.send(b"0\r\n\r\n")

    server = await serve(script)

    async def one(number: int) -> None:
        name = b"stream-%d" % number
        body = await rest(await ask(transport, name))
        assert body == b"".join(b"%b:%d " % (name, word) for word in range(20))

    for _ in range(2):
        await asyncio.gather(*(one(number) for number in range(256)))
    assert len(server.peers) == 256


async def test_exchange_leaves_nothing_to_the_garbage_collector(
    serve: Serve, transport: LocalTransport
) -> None:
    await serve(always(HELLO))
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            assert await rest(await ask(transport)) == b"hello"
        left = [thing for thing in gc.get_objects() if isinstance(thing, Exchange | AnswerReader)]
        assert left == []
    finally:
        gc.enable()
