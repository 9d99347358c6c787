# SPDX-License-Identifier: Apache-2.0
"""Clients that say what a test tells them, through the gateway, to servers that do the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from sparkd.core.access import api_keys

from .daemon_process import KEY, Gateway
from .scripted_server import (
    CHUNKED,
    DEADLINE_S,
    HELLO,
    OK,
    Peer,
    Serve,
    always,
    left,
    once,
    servers_at,
    until,
)

pytestmark = pytest.mark.integration

MIB = 1 << 20
STREAM = OK + b"Content-Type: text/event-stream\r\n"
EVENTS = STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


OTHERS_KEY = "sk-local-others"
"""Of a key that is for another model than `m`."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    key = api_keys.ApiKey(
        name="others",
        digest=api_keys.digest(OTHERS_KEY.encode()),
        scopes=tuple(api_keys.Scope),
        models=("other",),
    )
    keys = gateway.directory / "etc/keys.json"
    keys.touch(0o600)
    keys.write_text(api_keys.write([key]))
    yield gateway
    gateway.end()
    assert [line for line in gateway.log().splitlines() if " ERROR " in line] == []


@pytest.fixture
async def serve(gateway: Gateway) -> AsyncIterator[Serve]:
    async with servers_at(str(gateway.engine)) as start:
        yield start
    gateway.engine.unlink(missing_ok=True)


class Client:
    """One connection to the gateway, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(size)

    async def to_end(self) -> bytes:
        """All until the gateway closes the connection."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()

    async def answer(self) -> tuple[bytes, bytes]:
        """Head and body of an answer of known length."""
        head = await self.head()
        size = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
        return head, await self.exactly(int(size))

    async def chunks(self) -> bytes:
        """What is left of a body in chunks, as it came."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readuntil(END)

    def leave(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    client = await connected(gateway)
    yield client
    client.leave()


async def connected(gateway: Gateway) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", gateway.port))


def chat(
    *headers: str,
    body: dict[str, object] | None = None,
    path: str = "/v1/chat/completions",
    version: str = "1.1",
) -> bytes:
    """A whole and valid request; the headers given come first."""
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | (body or {}))
    lines = (
        f"POST {path} HTTP/{version}",
        *headers,
        "Host: sparkd",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(raw)}",
    )
    return "\r\n".join((*lines, "", raw)).encode()


STREAMED: dict[str, object] = {"stream": True}


# What is no request.


FRAMED = (
    f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n".encode()
)
INNER = b"GET /status HTTP/1.1\r\nHost: h\r\n\r\n"
MALFORMED = {
    "both lengths": FRAMED + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "lengths that differ": FRAMED + b"Content-Length: 4\r\nContent-Length: 40\r\n\r\n{}{}",
    "a list of lengths": FRAMED + b"Content-Length: 2, 40\r\n\r\n{}",
    "a signed length": FRAMED + b"Content-Length: +2\r\n\r\n{}",
    "a hidden coding": FRAMED + b"Content-Length: 2\r\nTransfer-Encoding : chunked\r\n\r\n{}",
    "a coding of two": FRAMED + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a folded header": FRAMED + b"X-A: 1\r\n Content-Length: 2\r\n\r\n{}",
    "bare LF": FRAMED.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "one bare LF": FRAMED + b"X-A: 1\nContent-Length: 2\r\n\r\n{}",
    "a bare CR": FRAMED + b"X-A: 1\rContent-Length: 2\r\n\r\n{}",
    "a zero byte": FRAMED + b"X-A: \0\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": b"GET /healthz HTTP/3.7\r\nHost: h\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 200,
    "noise": bytes(range(256)),
    "CONNECT": b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a long head": b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 70_000 + b"\r\n\r\n",
    "a head without end": b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + b"X-A: 1\r\n" * 9_000,
    "a line without end": b"GET /" + b"a" * 70_000,
    "many headers": b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + b"a:\r\n" * 256 + b"\r\n",
    "a URL without host": b"GET http:// HTTP/1.1\r\nHost: h\r\n\r\n",
    "a secure URL without host": b"GET https:// HTTP/1.1\r\nHost: h\r\n\r\n",
    "half an address": b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n",
    "no such port": b"GET http://a:9999999/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "a URL with a user": b"GET http://u@a/healthz HTTP/1.1\r\nHost: h\r\n\r\n",
    "a chunk without size": FRAMED + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n",
    "a chunk that is longer": FRAMED + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}}}\r\n0\r\n\r\n",
    "a negative chunk": FRAMED + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "chunks with bare LF": FRAMED + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
    "a request as trailer": FRAMED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + INNER,
}


TOO_LARGE = [
    MALFORMED[name]
    for name in ("a long head", "a head without end", "a line without end", "many headers")
]


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_request_gets_one_refusal_and_the_close(
    serve: Serve, client: Client, data: bytes
) -> None:
    server = await serve(always(HELLO))
    await client.say(data)
    answer = await client.to_end()
    status, code = (431, "head_too_large") if data in TOO_LARGE else (400, "bad_request")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1
    assert b"connection: close" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == code
    assert server.requests == []


async def test_thousands_of_damaged_requests_are_answered_or_closed_and_none_is_a_bug(
    gateway: Gateway, serve: Serve
) -> None:
    await serve(always(HELLO))
    draw, whole = random.Random(7), chat("X-A: 1") + INNER
    chunked = FRAMED + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-B: 1\r\n\r\n"
    before = gateway.descriptors()

    async def one(data: bytes) -> None:
        client = await connected(gateway)
        with contextlib.suppress(ConnectionError):
            await client.say(data)
            client.writer.write_eof()
            answer = await client.to_end()
            assert b"HTTP/1.1 5" not in answer, (data, answer)
        client.leave()

    for _ in range(100):
        await asyncio.gather(
            *(one(damaged(draw, draw.choice([whole, chunked]))) for _ in range(20))
        )
    await until(lambda: gateway.descriptors() <= before + 2)


def damaged(draw: random.Random, data: bytes) -> bytes:
    """The bytes with a few of them lost, doubled, changed or moved."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(5):
            case 0:
                del out[at : at + draw.randint(1, 8)]
            case 1:
                out[at:at] = draw.choice([b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b"\xff"])
            case 2:
                out[at : at + 1] = bytes([draw.randrange(256)])
            case 3:
                out[at:at] = out[at : at + draw.randint(1, 60)]
            case _:
                out = out[: at + 1]
    return bytes(out)


# What is one.


async def test_requests_in_one_piece_are_answered_in_their_order(
    serve: Serve, client: Client
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            name = b"three" if b"third" in await peer.request() else b"other"
            await peer.send(OK + b"Content-Length: 5\r\n\r\n" + name)

    await serve(script)
    health = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
    await client.say(chat() + health + chat(body={"user": "third"}))
    assert [(await client.answer())[1] for _ in range(3)] == [b"other", b"ok\n", b"three"]


async def test_request_may_come_byte_by_byte_and_after_an_empty_line(
    serve: Serve, client: Client
) -> None:
    server = await serve(always(HELLO))
    request = chat("Transfer-Encoding: chunked").replace(b"Content-Length", b"X-Length")
    head, _, body = request.partition(b"\r\n\r\n")
    parts = b"".join(b"1;x\r\n%c\r\n" % byte for byte in body)
    for byte in b"\r\n" + head + b"\r\n\r\n" + parts + b"0\r\nX-Late: 1\r\n\r\n":
        client.writer.write(bytes([byte]))
        if byte == ord("\n"):
            await asyncio.sleep(0)
    assert (await client.answer())[1] == b"hello"
    assert server.requests[0].endswith(body)
    await client.say(chat())
    assert (await client.answer())[1] == b"hello"


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/v1/models/none"])
async def test_head_is_answered_as_get_without_the_body(client: Client, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n"
    request += "X-Request-Id: one\r\n\r\n"
    await client.say(request.encode())
    head, _ = await client.answer()
    await client.say(request.replace("GET", "HEAD", 1).encode() * 2)
    assert [await client.head(), await client.head()] == [head, head]


async def test_stream_to_an_old_client_has_no_chunks_and_ends_with_the_connection(
    serve: Serve, client: Client
) -> None:
    await serve(once(EVENTS, b"9\r\ndata: a\n\n\r\n", END, pause_s=0.05))
    await client.say(chat("Connection: keep-alive", body=STREAMED, version="1.0"))
    head, _, body = (await client.to_end()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"data: a\n\n"


async def test_old_client_that_asks_for_it_keeps_its_connection(
    serve: Serve, client: Client
) -> None:
    await serve(always(HELLO))
    for _ in range(2):
        await client.say(chat("Connection: Keep-Alive", version="1.0"))
        head, body = await client.answer()
        assert b"connection: keep-alive" in head
        assert body == b"hello"
    await client.say(chat(version="1.0"))
    assert (await client.to_end()).endswith(b"hello")


async def test_headers_of_a_connection_end_with_it_in_both_directions(
    serve: Serve, client: Client
) -> None:
    ours = OK + b"Connection: x-mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n"
    ours += b"Trailer: X-T\r\nProxy-Authenticate: Basic\r\nOpenAI-Version: 2020-10-01\r\n"
    server = await serve(always(ours + b"Content-Length: 5\r\n\r\nhello"))
    hidden = ("Connection: X-Named, TE", "X-Named: 1", "TE: trailers", "Upgrade: h2c")
    await client.say(chat(*hidden, "Proxy-Authorization: Basic eA==", "X-Many: 1", "X-Many: 2"))
    head, _ = await client.answer()
    seen = {line.partition(b":")[0].lower() for line in server.requests[0].split(b"\r\n")[1:]}
    banned = {b"connection", b"x-named", b"te", b"upgrade", b"proxy-authorization"}
    assert seen & (banned | {b"authorization"}) == set()
    assert b"x-many: 1, 2" in server.requests[0]
    returned = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert returned & {b"x-mine", b"trailer", b"proxy-authenticate"} == set()
    assert head.count(b"keep-alive:") == head.count(b"keep-alive: timeout=120\r\n") == 1
    assert b"openai-version: 2020-10-01\r\n" in head


async def test_engine_says_nothing_to_a_browser_in_the_name_of_the_gateway(
    serve: Serve, client: Client
) -> None:
    said = b"Set-Cookie: a=1\r\nClear-Site-Data: *\r\nAccess-Control-Allow-Origin: *\r\n"
    said += b"Access-Control-Allow-Credentials: true\r\nRefresh: 0; url=http://evil.example/\r\n"
    await serve(always(OK + said + b"OpenAI-Version: 1\r\nContent-Length: 5\r\n\r\nhello"))
    await client.say(chat("Origin: http://evil.example"))
    head, body = await client.answer()
    banned, names = (
        {line.partition(b":")[0].lower() for line in lines.split(b"\r\n") if b":" in line}
        for lines in (said, head)
    )
    assert (body, b"openai-version" in names, len(banned)) == (b"hello", True, 5)
    assert names & banned == set()


async def test_web_page_without_a_key_gets_nothing_whatever_name_it_gives_this_host(
    gateway: Gateway,
) -> None:
    # Whoever owns the name can have it stand for 127.0.0.1, and a form needs no leave to be sent.
    base = f"http://127.0.0.1:{gateway.port}"
    evil = {"host": "evil.example:8009", "origin": "http://evil.example:8009"}
    open_to_all = {("GET", "/"), ("GET", "/healthz"), ("GET", "/openapi.json")}
    async with httpx.AsyncClient(base_url=base, headers=evil) as page:
        described = (await page.get("/openapi.json")).json()["paths"]
        asked = [(method.upper(), path) for path, one in described.items() for method in one]
        assert len(asked) > 20
        for method, path in asked:
            form = {"content-type": "text/plain", "cookie": "key=sk-x"}
            place = re.sub(r"{\w+}", "m", path)
            answer = await page.request(method, place, headers=form, content=b'{"model": "m"}')
            if (method, path) not in open_to_all:
                assert (answer.status_code, place) == (401, place)
            told = await page.options(place, headers={"access-control-request-method": method})
            for headers in (answer.headers, told.headers):
                assert "access-control-allow-origin" not in headers
                assert "set-cookie" not in headers


async def test_answer_that_may_have_no_body_has_none(serve: Serve, client: Client) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX-Early: 1\r\n\r\n"
    await serve(always(answer + b"HTTP/1.1 204 Fine\r\nOpenAI-Version: 1\r\n\r\n"))
    for _ in range(2):
        await client.say(chat())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 204 ")
        assert b"openai-version: 1" in head
        assert b"x-early" not in head
        assert b"content-length" not in head
        assert b"transfer-encoding" not in head


# Streams.


async def test_bytes_of_a_stream_pass_as_they_come_characters_cut_or_not(
    serve: Serve, client: Client
) -> None:
    event = 'data: {"content": "日本語 🎉"}\n\n'.encode()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENTS)
        for byte in event:
            await peer.send(b"1\r\n%c\r\n" % byte)
            await asyncio.wait_for(peer.told.wait(), DEADLINE_S)
            peer.told.clear()
        await peer.send(END)

    server = await serve(script)
    await client.say(chat(body=STREAMED))
    assert b"transfer-encoding: chunked" in await client.head()
    for byte in event:
        assert await client.exactly(6) == b"1\r\n%c\r\n" % byte
        server.peers[0].told.set()
    assert await client.chunks() == END


async def test_head_of_a_stream_does_not_wait_for_its_first_event(
    serve: Serve, client: Client
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENTS)
        await peer.told.wait()
        await peer.send(END)

    server = await serve(script)
    await client.say(chat(body=STREAMED))
    assert b"text/event-stream" in await client.head()
    server.peers[0].told.set()
    assert await client.chunks() == END


async def test_what_an_engine_sends_after_its_answer_reaches_nobody(
    serve: Serve, client: Client
) -> None:
    server = await serve(always(HELLO + HELLO.replace(b"hello", b"other")))
    for _ in range(3):
        await client.say(chat())
        assert (await client.answer())[1] == b"hello"
    assert len(server.peers) == 3


@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("/v1/chat/completions", b'data: {"error": {"message": "the model broke off'),
        ("/v1/messages", b'event: error\ndata: {"type": "error", "error": {"type": "api_error"'),
    ],
)
@pytest.mark.parametrize(
    "pieces",
    [
        (EVENTS + b"9\r\ndata: a\n\n\r\n",),
        (EVENTS + b"9\r\ndata: a\n\n\r\n20\r\ndata:",),
        (STREAM + b"Content-Length: 50\r\n\r\ndata: a\n\n",),
        (STREAM + b"\r\ndata: a\n\n",),
        (STREAM + b"\r\n", b"data: a\n\n"),
    ],
    ids=[
        "between chunks",
        "in a chunk",
        "in a counted one",
        "without an end mark",
        "in two pieces",
    ],
)
async def test_stream_that_breaks_off_ends_with_an_error_event_of_its_dialect(
    serve: Serve, client: Client, pieces: tuple[bytes, ...], path: str, event: bytes
) -> None:
    await serve(once(*pieces, pause_s=0.02))
    await client.say(chat("Connection: close", path=path, body={"stream": True, "max_tokens": 9}))
    answer = await client.to_end()
    assert b"data: a\n\n" in answer
    assert event in answer
    assert answer.endswith(END) is (b"transfer-encoding: chunked" in answer)


@pytest.mark.parametrize(
    "end",
    [
        b"data: [DONE]\n\n",
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
        b"data: [DONE]\r\n\r\n",
    ],
)
async def test_stream_that_ends_with_its_mark_is_whole_without_any_length(
    serve: Serve, client: Client, end: bytes
) -> None:
    await serve(once(STREAM + b"\r\ndata: a\n\n", end[:9], end[9:], pause_s=0.02))
    await client.say(chat("Connection: close", body=STREAMED))
    answer = await client.to_end()
    assert b"error" not in answer.partition(b"\r\n\r\n")[2]
    assert answer.endswith(END)


@pytest.mark.parametrize(
    "begun",
    [OK + b"Content-Length: 50\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n"],
    ids=["counted", "in chunks"],
)
async def test_answer_that_breaks_off_never_looks_whole(
    serve: Serve, client: Client, begun: bytes
) -> None:
    await serve(once(begun, pause_s=0.02))
    await client.say(chat("Connection: keep-alive"))
    with pytest.raises(ConnectionResetError):
        await client.to_end()


async def test_answer_that_breaks_off_before_its_body_is_an_error_with_a_status(
    serve: Serve, client: Client
) -> None:
    await serve(once(OK + b"Content-Length: 5\r\n\r\n"))
    await client.say(chat())
    head, body = await client.answer()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert json.loads(body)["error"]["code"] == "upstream_lost"


# Who leaves, and who is slow.


@pytest.mark.parametrize("how", ["reset", "half-closed"])
@pytest.mark.parametrize("padding", [0, 65_000, 70_000, 300_000])
async def test_client_that_leaves_ends_its_request_at_the_engine_whatever_it_had_sent(
    serve: Serve, client: Client, how: str, padding: int
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.read_on()

    server = await serve(script)
    await client.say(chat(body={"user": "x" * padding}))
    await until(lambda: bool(server.requests))
    if how == "reset":
        client.leave()
    else:
        client.writer.write_eof()
    await left(server.peers[0])


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_slow_reader_stops_the_engine_and_memory_does_not_grow(
    gateway: Gateway, serve: Serve, version: str
) -> None:
    size, chunk = 64, b"100000\r\n" + b"x" * MIB + b"\r\n"

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENTS)
        for _ in range(size):
            await peer.send(chunk)
        await peer.send(END)

    server = await serve(script)
    before_bytes = gateway.rss_bytes()
    link = socket.create_connection(("127.0.0.1", gateway.port))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    link.sendall(chat(body=STREAMED, version=version))
    await until(lambda: bool(server.peers) and server.peers[0].sent_bytes > MIB)
    stopped_at = -1
    while stopped_at != server.peers[0].sent_bytes:
        stopped_at = server.peers[0].sent_bytes
        await asyncio.sleep(0.3)
    assert stopped_at < 16 * MIB
    assert gateway.rss_bytes() - before_bytes < 4 * MIB
    link.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=link)
    taken, tail = 0, b""
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        while part := await reader.read(1 << 18):
            taken += part.count(b"x")
            tail = (tail + part)[-len(END) :]
            if version == "1.1" and tail == END:
                break
    assert taken == size * MIB
    writer.close()


async def test_slow_reader_that_resets_ends_the_stream_at_the_engine(
    gateway: Gateway, serve: Serve
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENTS)
        while True:
            await peer.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    server = await serve(script)
    link = socket.create_connection(("127.0.0.1", gateway.port))
    link.sendall(chat(body=STREAMED))
    await until(lambda: bool(server.peers) and server.peers[0].sent_bytes > MIB)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
    await left(server.peers[0])


async def test_slow_upload_arrives_whole(serve: Serve, client: Client) -> None:
    server = await serve(always(HELLO))
    request = chat(body={"user": "x" * (2 * MIB)})
    for at in range(0, len(request), 1 << 18):
        await client.say(request[at : at + (1 << 18)])
        await asyncio.sleep(0.01)
    assert (await client.answer())[1] == b"hello"
    assert len(server.requests[0]) > 2 * MIB


async def test_engine_that_reads_slowly_gets_the_body_whole(serve: Serve, client: Client) -> None:
    async def script(peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        left_bytes = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while left_bytes:
            left_bytes -= len(await peer.reader.read(1 << 17))
            await asyncio.sleep(0.01)
        await peer.send(HELLO)

    await serve(script)
    await client.say(chat(body={"user": "x" * (2 * MIB)}))
    assert (await client.answer())[1] == b"hello"


# Paths, names and headers as foreign clients write them.


@pytest.mark.parametrize(
    "path",
    [
        *("/v1//chat/completions", "/v1/v1/chat/completions", "/chat/completions/"),
        *(
            "/openai/deployments/m/chat/completions?api-version=2024-10-21",
            "/v1/m/v1/chat/completions",
        ),
    ],
)
async def test_path_that_a_client_joined_wrongly_is_served(
    client: Client, serve: Serve, path: str
) -> None:
    async def engine(peer: Peer) -> None:
        head = await peer.request()
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        await peer.send(HELLO)

    await serve(engine)
    await client.say(chat(path=path, body={"model": "openai/M:latest"}))
    assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")


async def test_right_key_in_any_header_is_taken_and_none_reaches_the_engine(
    gateway: Gateway, serve: Serve
) -> None:
    async def engine(peer: Peer) -> None:
        head = await peer.request()
        assert KEY.encode() not in head
        await peer.send(HELLO)

    await serve(engine)
    raw = b'{"model": "m", "messages": []}'
    for headers in (f"api-key: {KEY}", f"Authorization: Bearer wrong\r\nx-api-key: {KEY}"):
        client = await connected(gateway)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n{headers}\r\n"
        await client.say(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")
        client.leave()


async def test_request_without_a_key_is_challenged_and_not_to_be_sent_again(client: Client) -> None:
    await client.say(b"GET /v1/models HTTP/1.1\r\nHost: h\r\n\r\n")
    head, body = await client.answer()
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b'\r\nwww-authenticate: Bearer realm="sparkd"\r\n' in head
    assert b"\r\nx-should-retry: false\r\n" in head
    assert json.loads(body)["error"]["code"] == "invalid_api_key"


async def test_websocket_of_codex_is_declined_by_the_status_that_it_understands(
    client: Client,
) -> None:
    await client.say(
        b"GET /v1/responses HTTP/1.1\r\nHost: h\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    head, _ = await client.answer()
    assert head.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nupgrade: " in head


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_stored_response_is_refused_in_plain_words(client: Client, method: str) -> None:
    head = f"{method} /v1/responses/resp_1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n"
    await client.say(f"{head}Content-Length: 0\r\n\r\n".encode())
    head, body = await client.answer()
    assert head.startswith(b"HTTP/1.1 404 ")
    assert json.loads(body)["error"]["code"] == "responses_not_stored"


OVERFLOW = json.dumps(
    {
        "error": {
            "message": "This model's maximum context length is 8192 tokens. However, your request "
            "has 9000 input tokens.",
            "type": "BadRequestError",
            "code": 400,
        }
    }
).encode()


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_engine_that_refuses_a_long_prompt_is_quoted_in_anthropics_words(
    client: Client, serve: Serve, path: str, *, streamed: bool
) -> None:
    async def engine(peer: Peer) -> None:
        await peer.request()
        head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
        await peer.send(head + b"Content-Length: %d\r\n\r\n%b" % (len(OVERFLOW), OVERFLOW))

    await serve(engine)
    await client.say(chat(path=path, body={"stream": streamed}))
    head, body = await client.answer()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nx-should-retry: false\r\n" in head
    assert json.loads(body) == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "prompt is too long: 9000 tokens > 8192 maximum",
        },
    }


async def test_engine_that_breaks_off_a_response_fails_it_in_the_events_of_its_dialect(
    client: Client, serve: Serve
) -> None:
    async def engine(peer: Peer) -> None:
        await peer.request()
        await peer.send(EVENTS + b"15\r\nevent: x\ndata: {}\n\nab\n\r\n")
        peer.reset()

    await serve(engine)
    await client.say(chat(path="/v1/responses", body=STREAMED))
    await client.head()
    assert b"event: response.failed\ndata: {" in await client.chunks()


async def test_list_of_models_has_the_form_of_the_library_that_asks(client: Client) -> None:
    head = f"GET /v1/models?limit=1000 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n"
    await client.say(f"{head}\r\n".encode())
    plain = json.loads((await client.answer())[1])
    assert set(plain) == {"object", "data"}
    await client.say(f"{head}anthropic-version: 2023-06-01\r\n\r\n".encode())
    both = json.loads((await client.answer())[1])
    assert (both["first_id"], both["has_more"]) == ("m", False)
    assert both["data"][0].items() >= plain["data"][0].items()
    assert both["data"][0]["display_name"] == "m"


async def test_root_tells_programs_where_the_api_is_and_browsers_get_the_page(
    client: Client,
) -> None:
    await client.say(b"GET / HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n")
    assert json.loads((await client.answer())[1])["api"] == "/v1"
    await client.say(b"GET / HTTP/1.1\r\nHost: h\r\nAccept: text/html, */*\r\n\r\n")
    assert b"<!doctype html>" in (await client.answer())[1].lower()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_client_of_ollama_reads_where_to_go(client: Client, method: str) -> None:
    await client.say(
        f"{method} /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".encode()
    )
    head, body = await client.answer()
    assert head.startswith(b"HTTP/1.1 404 ")
    assert "Ollama" in json.loads(body)["error"]


async def test_key_for_one_model_learns_of_no_other_at_any_endpoint(
    gateway: Gateway, client: Client
) -> None:
    for path in ("/v1/models", "/v1/models/m", "/check/m", "/debug/gpu-stats/m", "/logs/m"):
        method = "POST" if path.startswith("/check") else "GET"
        head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {OTHERS_KEY}\r\n"
        await client.say(f"{head}Content-Length: 0\r\n\r\n".encode())
        answered, body = await client.answer()
        known = body.replace(b"model 'm'", b"") if b"model_forbidden" in body else body
        assert b'"m"' not in known, path
        assert b"'m'" not in known, path
        assert b" 500 " not in answered
