# SPDX-License-Identifier: Apache-2.0
"""Floods of obstructive connections to the gateway, and one client with requests meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sparkd.gateway.http.unauthenticated import UNAUTHENTICATED_MOST

from .daemon_process import KEY, Gateway
from .scripted_server import HELLO, Peer, Server, until

pytestmark = pytest.mark.integration

MIB = 1 << 20
CROWD = 10_000
SPARE = 500
BESIDE = 20
"""A piece of a body comes with so many connections."""
PATIENCE_S = 6.0
ANSWER_S = 60.0
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
ADMITTED = HEAD + b"Authorization: Bearer %b\r\n" % KEY.encode()
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
REQUESTED = ADMITTED + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # For us and for the gateway, whose unit gives it more.
    enough = CROWD + SPARE
    if soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, max(enough, hard)))
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), patience_s=PATIENCE_S)
    yield gateway
    gateway.end()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [line for line in gateway.log().splitlines() if " ERROR " in line] == []


@pytest.fixture
async def served(gateway: Gateway) -> AsyncIterator[Gateway]:
    """The gateway, with an engine that answers."""

    async def hello(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HELLO)

    engine = Server(str(gateway.engine), hello)
    await engine.start()
    yield gateway
    await engine.stop()
    gateway.engine.unlink(missing_ok=True)


async def answer(gateway: Gateway, said: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(said)
    async with asyncio.timeout(ANSWER_S):
        told = await reader.read()
    writer.close()
    return told


async def assert_answers(gateway: Gateway) -> None:
    assert (await answer(gateway, REQUESTED)).endswith(b"\r\n\r\nhello")


def connection(gateway: Gateway, crowd: contextlib.ExitStack) -> socket.socket:
    """One of a crowd, which is being opened."""
    link = crowd.enter_context(socket.socket())
    link.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        link.connect(("127.0.0.1", gateway.port))
    return link


async def test_ten_thousand_idle_connections_take_neither_the_port_nor_the_memory(
    served: Gateway,
) -> None:
    await assert_answers(served)
    before_bytes, before = served.rss_bytes(), served.descriptors()
    with contextlib.ExitStack() as crowd:
        for number in range(CROWD):
            connection(served, crowd)
            if number % SPARE == 0:
                await assert_answers(served)
        # Those that were broken off last are closed in the next turns of the loop.
        await until(lambda: served.descriptors() - before <= UNAUTHENTICATED_MOST + 10)
        assert served.rss_bytes() - before_bytes < 64 * MIB
    await until(lambda: served.descriptors() <= before + 2)
    await assert_answers(served)


async def test_connection_with_a_key_is_not_broken_off_for_those_without(served: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    numbers = range(UNAUTHENTICATED_MOST + SPARE)
    # It takes as long as the crowd does to come, and keeps the pace that is asked of bodies.
    pieces = [b" " * 4096] * len(numbers[::BESIDE])
    size = len(BODY) + sum(map(len, pieces))
    writer.write(ADMITTED + b"Content-Length: %d\r\n\r\n" % size)
    await writer.drain()
    with contextlib.ExitStack() as crowd:
        idle = connection(served, crowd)
        await assert_answers(served)
        for number in numbers:
            connection(served, crowd)
            if number % BESIDE == 0:
                writer.write(pieces.pop())
                await writer.drain()
            if number % SPARE == 0:
                await assert_answers(served)
        assert idle.recv(1) == b""
        writer.write(BODY)
        async with asyncio.timeout(ANSWER_S):
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def crept(gateway: Gateway, said: bytes, creeping: bytes) -> tuple[bytes, float]:
    """What a client is told that sends so little at a time, and after how long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    began_s, told = time.monotonic(), bytearray()

    async def listen() -> None:
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(4096):
                told.extend(part)

    writer.write(said)
    listening = asyncio.create_task(listen())
    while not listening.done():
        writer.write(creeping)
        await asyncio.sleep(0.3)
    writer.close()
    return bytes(told), time.monotonic() - began_s


async def test_five_hundred_that_creep_are_sent_away_in_time_and_keep_nobody_waiting(
    served: Gateway,
) -> None:
    before = served.descriptors()
    length = b"Content-Length: 1000000\r\n\r\n"
    kinds = {
        b"HTTP/1.1 408 ": HEAD + b"X-Slow: ",
        b"HTTP/1.1 400 ": ADMITTED + length,
        b"HTTP/1.1 401 ": HEAD + b"X-Api-Key: wrong\r\n" + length,
    }
    crowd = [
        (status, asyncio.create_task(crept(served, said, b"x")))
        for number, (status, said) in enumerate(kinds.items())
        # More wrong keys than these, and nobody of this address has his key looked at.
        for _ in range((240, 245, 15)[number])
    ]
    slowest_s = 0.0
    while not all(task.done() for _, task in crowd):
        began_s = time.monotonic()
        await assert_answers(served)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        await asyncio.sleep(0.1)
    for status, task in crowd:
        told, took_s = task.result()
        assert told.startswith(status) or not told, told
        assert took_s < PATIENCE_S + ANSWER_S
    assert len([task for _, task in crowd if task.result()[0]]) > len(crowd) * 0.9
    assert slowest_s < ANSWER_S
    await until(lambda: served.descriptors() <= before + 2)


@pytest.mark.parametrize(
    ("flood", "status"),
    [
        (b"a:\r\n" * 200, 200),
        (b"a: " + b"x" * 60_000 + b"\r\n", 200),
        (b"a:\r\n" * 300_000, 431),
        (b"a: " + b"x" * MIB, 431),
        (b"a: x\r\n x\r\n" * 10, 400),
        (b"content-length: 0\r\n" * 100, 400),
        (b"authorization: Bearer x\r\n" * 100, 400),
    ],
    ids=["many", "long", "endless", "huge", "folded", "lengths", "keys"],
)
async def test_flood_of_headers_is_answered_at_once_and_gathers_nothing(
    served: Gateway, flood: bytes, status: int
) -> None:
    before_bytes = served.rss_bytes()

    async def one() -> bytes:
        try:
            return await answer(served, REQUESTED.replace(b"Connection:", flood + b"Connection:"))
        except ConnectionError:
            # Who still sends when he is sent away may lose the answer.
            return b""

    for told in await asyncio.gather(*(one() for _ in range(40))):
        assert told.startswith(b"HTTP/1.1 %d " % status) or (not told and len(flood) > 65536)
    await assert_answers(served)
    assert served.rss_bytes() - before_bytes < 32 * MIB


TRICKS = (
    *("..", "../m", "m/..", "m/../m", "./m", "%2e%2e", "%2e%2e%2fm", "m%2f.."),
    *("m%00", "%00", "m%0a", "m%0d%0aX-A:%201", "m%20", "m%5c", "%5cx6d", "m%5cx00", "..%5cm"),
    *("%256d", "%25252e", "%EF%BD%8D", "m%E2%80%8B", "m%CC%81", "%D0%BC", "%c0%ae%c0%ae"),
    *("%ff", "%ED%A0%80", "%", "%zz", "a" * 4000, "%2e%2e%2f" * 400, "m;a=b", "~root", "$(id)"),
    *("start", "m.transition", "-m", "+m", ":m", "models", "*"),
)
PATHS = (
    *("POST /v1/{}/chat/completions", "POST /v1/{}/embeddings", "GET /v1/models/{}"),
    *("POST /models/{}/load", "POST /models/{}/unload", "POST /models/{}/pin"),
    *("POST /models/{}/unpin", "POST /ensure/{}", "POST /touch/{}", "POST /debug/touch/{}"),
    *("POST /check/{}", "GET /logs/{}", "GET /logs/{}?follow=1"),
)


def files(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.name != "log"}


@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_a_path_is_a_model_or_leaves_a_trace(gateway: Gateway, path: str) -> None:
    before = files(gateway.directory)
    method, _, place = path.partition(" ")
    body = BODY if "/v1/" in path and method == "POST" else b""
    asking = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=ANSWER_S)
    for trick in TRICKS:
        asking.putrequest(method, place.format(trick), skip_accept_encoding=True)
        asking.putheader("Authorization", f"Bearer {KEY}")
        asking.putheader("Content-Length", str(len(body)))
        asking.endheaders(body)
        told = asking.getresponse()
        text = told.read()
        assert told.status in (400, 404, 405), (trick, told.status, text)
        assert told.getheader("x-a") is None
        message = json.loads(text)["error"]["message"]
        assert len(message.splitlines()) == 1
        assert len(message) < 1000
    asking.close()
    assert files(gateway.directory) == before
