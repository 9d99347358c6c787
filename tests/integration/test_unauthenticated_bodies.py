# SPDX-License-Identifier: Apache-2.0
"""Bodies that no key vouches for, and bodies that are too many: they take no memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from .daemon_process import KEY, Gateway
from .scripted_server import HELLO, Peer, Server, until

pytestmark = pytest.mark.integration

MIB = 1 << 20
PIECE = bytes(MIB)
CLIENTS = 10
ANSWER_S = 60.0
ROUTES = (
    *("GET /healthz", "GET /", "GET /openapi.json", "GET /status", "GET /v1/models", "GET /events"),
    *("GET /metrics", "GET /doctor", "GET /logs/m", "GET /debug/state", "GET /debug/gpu-stats/m"),
    *("POST /v1/chat/completions", "POST /v1/nothing", "POST /nowhere", "DELETE /v1/models"),
    *("POST /models/m/load", "POST /check/m", "OPTIONS /v1/models", "OPTIONS /nowhere", "HEAD /"),
    *("GET http://[/", "POST http:// "),
)
KEYED = b"Authorization: Bearer %b\r\n" % KEY.encode()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(
        tmp_path_factory.mktemp("gateway"), settings="body_limit: 8MiB\nbodies_limit: 20MiB\n"
    )
    yield gateway
    gateway.end()
    assert [line for line in gateway.log().splitlines() if " ERROR " in line] == []


async def sent(gateway: Gateway, head: bytes, size: int, *, chunked: bool) -> bytes:
    """The answer to a request with a body of zeros, as a client gets it that sends to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    writer.write(head + framing + b"\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(size // len(PIECE)):
            writer.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
            await writer.drain()
    async with asyncio.timeout(ANSWER_S):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    return answer


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
@pytest.mark.parametrize("route", ROUTES)
async def test_large_bodies_without_a_key_are_answered_and_take_no_memory(
    gateway: Gateway, route: str, chunked: bool
) -> None:
    head = f"{route} HTTP/1.1\r\nHost: h\r\n".encode()
    # One client fills the whole body limit, the others stop a little later.
    sizes = [12 * MIB] * CLIENTS
    before_bytes = gateway.rss_bytes()
    asked = [asyncio.create_task(sent(gateway, head, size, chunked=chunked)) for size in sizes]
    grown = 0
    while not all(task.done() for task in asked):
        grown = max(grown, gateway.rss_bytes() - before_bytes)
        await asyncio.sleep(0.005)
    for answer in await asyncio.gather(*asked):
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"connection: close\r\n" in answer
    assert grown < 16 * MIB


@pytest.mark.parametrize("route", ["GET /healthz", "GET /status", "POST /models/no/load"])
async def test_small_body_where_none_is_wanted_keeps_the_connection(
    gateway: Gateway, route: str
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = f"{route} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    for _ in range(3):
        writer.write(head)
        async with asyncio.timeout(ANSWER_S):
            answer = await reader.readuntil(b"\r\n\r\n")
            size = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
        assert b"connection: close" not in answer
        assert b"keep-alive: timeout=120\r\n" in answer
    writer.close()


async def test_bodies_together_have_a_limit_and_one_that_was_sent_makes_room(
    gateway: Gateway,
) -> None:
    holding = asyncio.Event()

    async def hello(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HELLO)
            holding.set()

    body = json.dumps({"model": "m", "pad": "x" * (7 * MIB)}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n" + KEYED
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    links = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
    for _, writer in links:
        # All but the last byte: the gateway holds it and waits.
        writer.write(head + body[:-1])
        await writer.drain()
    await asyncio.sleep(0.5)
    refused = await sent(gateway, head.partition(b"Content-Length")[0], 8 * MIB, chunked=True)
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5\r\n" in refused
    engine = Server(str(gateway.engine), hello)
    await engine.start()
    for reader, writer in links:
        writer.write(body[-1:])
        async with asyncio.timeout(ANSWER_S):
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
        writer.transport.abort()
    # All that they held is free again, although their connections are open.
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for _ in range(4):
        writer.write(head + body)
        async with asyncio.timeout(ANSWER_S):
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
    writer.transport.abort()
    await engine.stop()
    gateway.engine.unlink(missing_ok=True)


async def test_body_has_left_memory_while_its_answer_streams(gateway: Gateway) -> None:
    more = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await more.wait()

    engine = Server(str(gateway.engine), slow)
    await engine.start()
    body = json.dumps({"model": "m", "stream": True, "pad": "x" * (7 * MIB)}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n" + KEYED
    links = []
    for _ in range(6):
        # Together they are twice the limit.
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        links.append(writer)
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        async with asyncio.timeout(ANSWER_S):
            answer = await reader.readuntil(b"data: 1\n\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
    for writer in links:
        writer.transport.abort()
    more.set()
    await engine.stop()
    gateway.engine.unlink(missing_ok=True)


async def test_client_that_leaves_with_a_long_pipeline_ends_its_request(gateway: Gateway) -> None:
    left = asyncio.Event()

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await peer.reader.read()
        left.set()

    engine = Server(str(gateway.engine), endless)
    await engine.start()
    body = json.dumps({"model": "m", "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n" + KEYED
    asked = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(asked)
    async with asyncio.timeout(ANSWER_S):
        await reader.readuntil(b"data: 1\n\n")
        writer.write(asked * (300_000 // len(asked)))
        await writer.drain()
        writer.close()
        await left.wait()
    await engine.stop()
    gateway.engine.unlink(missing_ok=True)


async def test_wrong_keys_lock_out_no_right_one(gateway: Gateway) -> None:
    async def status_with(key: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        # Nothing of this name: the answer comes from behind the key.
        head = f"POST /models/no/pin HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(ANSWER_S):
            line = await reader.readline()
        writer.close()
        return line.split()[1]

    told = [await status_with(f"wrong-{number}") for number in range(25)]
    assert told == [b"401"] * 20 + [b"429"] * 5
    other = gateway.directory / "etc/api-key"
    other.write_text(f"{KEY}\nnever-used-before\n")
    await until(lambda: other.exists())
    assert await status_with("never-used-before") == b"404"
    assert await status_with(KEY) == b"404"


@pytest.mark.parametrize(
    "target",
    [
        "/events?last=1e308",
        "/events?last=" + "9" * 5000,
        "/events?last=nan",
        "/events?last=%ff",
        "/logs/m?lines=" + "9" * 5000,
        "/logs/m?lines=%D9%A3",
    ],
)
async def test_numbers_that_are_none_are_refused(gateway: Gateway, target: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: h\r\n".encode() + KEYED + b"\r\n")
    async with asyncio.timeout(ANSWER_S):
        assert (await reader.readline()).split()[1] == b"400"
    writer.close()


async def test_overlong_event_id_is_ignored(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = b"GET /events HTTP/1.1\r\nHost: h\r\nLast-Event-ID: " + b"9" * 5000 + b"\r\n"
    writer.write(head + KEYED + b"\r\n")
    async with asyncio.timeout(ANSWER_S):
        assert (await reader.readline()).split()[1] == b"200"
    writer.close()


async def test_hundred_odd_targets_leave_no_line_in_the_journal(gateway: Gateway) -> None:
    before = gateway.log()
    began_s = time.monotonic()
    for target in ("http://", "https://", "http://[", "http://a:999999/") * 25:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        async with asyncio.timeout(ANSWER_S):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 ")
    assert time.monotonic() - began_s < ANSWER_S
    assert gateway.log() == before
