# SPDX-License-Identifier: Apache-2.0
"""Keep-alives in event streams and clients that do not take their response, through the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from sparkd.core.http import sse

from .daemon_process import KEY, Gateway
from .scripted_server import OK, Peer, Script, Serve, always, once, servers_at, until
from .test_gateway import EVENTS, MIB, STREAMED, Client, chat, connected

pytestmark = pytest.mark.integration

INTERVAL_S = 0.5
"""Between keep-alives; the gateway of these tests has little patience."""
STALL_S = 4 * INTERVAL_S
SILENCE_S = 2.6 * INTERVAL_S
PATHS = ["chat/completions", "completions", "messages", "responses"]
END_MARKS = {
    "chat/completions": b"data: [DONE]\n\n",
    "completions": b"data: [DONE]\n\n",
    "messages": b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
    "responses": b'event: response.completed\ndata: {"type": "response.completed"}\n\n',
}
EVENT = b'data: {"id": "engine-1", "created": 7, "model": "served", "choices": []}\n\n'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), patience_s=INTERVAL_S)
    yield gateway
    gateway.end()
    assert [line for line in gateway.log().splitlines() if " ERROR " in line] == []


@pytest.fixture
async def serve(gateway: Gateway) -> AsyncIterator[Serve]:
    async with servers_at(str(gateway.engine)) as start:
        yield start
    gateway.engine.unlink(missing_ok=True)


def spoken(*parts: bytes | float, head: bytes = EVENTS, bytewise: bool = False) -> Script:
    """A script that answers with a head and chunks, and is silent where a number stands."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for part in (head, *parts):
            if isinstance(part, bytes):
                framed = part if part is head else b"%x\r\n%b\r\n" % (len(part), part)
                pieces = [framed]
                if bytewise and part is not head:
                    pieces = [b"1\r\n%c\r\n" % byte for byte in part]
                for piece in pieces:
                    await peer.send(piece)
                    if bytewise:
                        await asyncio.sleep(0.002)
            else:
                await asyncio.sleep(part)
        await peer.send(b"0\r\n\r\n")

    return script


async def told(
    gateway: Gateway, *headers: str, path: str = "chat/completions", stream: bool = True
) -> tuple[bytes, bytes]:
    """Head and body, taken out of its chunks, of one response."""
    client = await connected(gateway)
    body = {**STREAMED, "prompt": "x", "input": "x"} if stream else {}
    await client.say(chat("Connection: close", *headers, body=body, path=f"/v1/{path}"))
    head, _, raw = (await client.to_end()).partition(b"\r\n\r\n")
    client.leave()
    return head, unchunked(raw) if b"chunked" in head else raw


def unchunked(raw: bytes) -> bytes:
    body = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        body += raw[: int(size, 16)]
        raw = raw[int(size, 16) + 2 :]
    return body


def beats(path: str, body: bytes) -> list[bytes]:
    """The keep-alives in a body."""
    kept = {
        "chat/completions": rb'data: \{[^\n]*"delta": \{\}[^\n]*\n\n',
        "completions": rb'data: \{[^\n]*"text": ""[^\n]*\n\n',
        "messages": rb'event: ping\ndata: \{"type": "ping"\}\n\n',
        "responses": rb": sparkd [^\n]*\n\n",
    }
    return re.findall(kept[path], body)


def without(found: list[bytes], body: bytes) -> bytes:
    for one in found:
        body = body.replace(one, b"", 1)
    return body


@pytest.mark.parametrize("path", PATHS)
async def test_silence_of_an_engine_is_filled_before_and_between_events_and_after_none(
    gateway: Gateway, serve: Serve, path: str
) -> None:
    await serve(spoken(SILENCE_S, EVENT, SILENCE_S, END_MARKS[path], SILENCE_S))
    head, body = await told(gateway, path=path)
    assert head.startswith(b"HTTP/1.1 200 ")
    found = beats(path, body)
    assert len(found) == 4, body
    assert without(found, body) == EVENT + END_MARKS[path]
    assert body.endswith(END_MARKS[path])
    assert body.index(EVENT) == sum(map(len, found[:2]))


@pytest.mark.parametrize("path", PATHS)
async def test_silence_before_the_head_begins_the_stream(
    gateway: Gateway, serve: Serve, path: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(SILENCE_S)
        await peer.send(EVENTS + b"%x\r\n%b\r\n" % (len(EVENT), EVENT) + b"0\r\n\r\n")

    await serve(script)
    head, body = await told(gateway, path=path)
    assert b"content-type: text/event-stream" in head
    found = beats(path, body)
    assert body == b"".join(found) + EVENT
    assert len(found) == 2


async def test_chunk_has_the_ids_of_its_stream(gateway: Gateway, serve: Serve) -> None:
    server = await serve(spoken(SILENCE_S, EVENT, SILENCE_S))
    _, body = await told(gateway)
    chunks = [json.loads(one[len(b"data: ") :]) for one in beats("chat/completions", body)]
    sent = re.search(rb"x-request-id: (\S+)", server.requests[0])
    assert sent is not None
    assert {one["id"] for one in chunks[:2]} == {f"chatcmpl-{sent[1].decode()}"}
    assert {one["model"] for one in chunks[:2]} == {"m"}
    assert {(one["id"], one["created"], one["model"]) for one in chunks[2:]} == {
        ("engine-1", 7, "served")
    }
    assert all(
        one["choices"] == [{"index": 0, "delta": {}, "finish_reason": None}] for one in chunks
    )


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
async def test_no_keep_alive_stands_inside_an_event(
    gateway: Gateway, serve: Serve, line_end: bytes
) -> None:
    whole = EVENT.replace(b"\n", line_end)
    for at in (1, 5, 20, len(whole) - len(line_end) - 1, len(whole) - len(line_end)):
        await serve(spoken(whole, whole[:at], SILENCE_S, whole[at:]))
        _, body = await told(gateway)
        assert body == whole + whole, at


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
async def test_boundary_is_found_in_a_stream_that_comes_byte_by_byte(
    gateway: Gateway, serve: Serve, line_end: bytes
) -> None:
    whole = EVENT.replace(b"\n", line_end)
    await serve(spoken(whole, SILENCE_S, b"data: [DONE]\n\n", SILENCE_S, bytewise=True))
    _, body = await told(gateway)
    found = beats("chat/completions", body)
    assert len(found) == 2
    assert without(found, body) == whole + b"data: [DONE]\n\n"


async def test_nothing_is_added_to_what_is_no_plain_stream(gateway: Gateway, serve: Serve) -> None:
    await serve(spoken(b"{", SILENCE_S, b"}", head=OK + b"Transfer-Encoding: chunked\r\n\r\n"))
    assert (await told(gateway))[1] == b"{}"
    encoded = EVENTS.replace(b"Transfer", b"Content-Encoding: gzip\r\nTransfer")
    await serve(spoken(b"packed\n\n", SILENCE_S, b"more", head=encoded))
    assert (await told(gateway))[1] == b"packed\n\nmore"
    failed = EVENTS.replace(b"200 OK", b"500 Broken")
    await serve(spoken(EVENT, SILENCE_S, head=failed))
    assert (await told(gateway))[1] == EVENT
    await serve(spoken(EVENT, SILENCE_S))
    assert (await told(gateway, stream=False))[1] == EVENT


async def test_stream_is_asked_for_without_an_encoding(gateway: Gateway, serve: Serve) -> None:
    server = await serve(spoken(EVENT))
    await told(gateway, "Accept-Encoding: gzip, br")
    assert b"accept-encoding: identity\r\n" in server.requests[0]


async def test_client_chooses_the_form_for_its_request(gateway: Gateway, serve: Serve) -> None:
    server = await serve(spoken(SILENCE_S, EVENT))
    _, body = await told(gateway, "X-Sparkd-Keep-Alive: comment")
    assert body == b": sparkd waiting for m\n\n" * 2 + EVENT
    assert b"sparkd" not in server.requests[0].split(b"\r\n\r\n")[0].replace(b"host: model", b"")
    _, body = await told(gateway, "X-Sparkd-Keep-Alive: off")
    assert body == EVENT
    _, body = await told(gateway, "X-Stainless-Lang: js")
    assert body == b": sparkd waiting for m\n\n" * 2 + EVENT
    head, body = await told(gateway, "X-Sparkd-Keep-Alive: often")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert "chunk, comment, off" in json.loads(body)["error"]["hint"]


REFUSED = b'{"error": {"message": "the prompt is too long", "type": "x", "param": "input"}}'


def refusing(after_s: float, body: bytes = REFUSED) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(after_s)
        await peer.send(
            b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    return script


async def test_fast_refusal_of_an_engine_keeps_its_status(gateway: Gateway, serve: Serve) -> None:
    await serve(refusing(0))
    head, body = await told(gateway)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body == REFUSED


@pytest.mark.parametrize("path", PATHS)
async def test_late_refusal_of_an_engine_is_an_error_event_of_the_dialect(
    gateway: Gateway, serve: Serve, path: str
) -> None:
    await serve(refusing(SILENCE_S))
    head, body = await told(gateway, path=path)
    assert head.startswith(b"HTTP/1.1 200 ")
    last = without(beats(path, body), body)
    assert last.count(b"\n\n") == 1
    assert b"the prompt is too long" in last
    if path == "messages":
        assert last.startswith(b"event: error\ndata: ")
        assert json.loads(last.split(b"data: ")[1])["error"]["type"] == "invalid_request_error"
    await until(lambda: "upstream_400" in gateway.log())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("status", "said", "retry", "pause"),
    [
        (500, "EngineCore encountered an issue. See stack trace", False, b""),
        (501, "no such feature", False, b""),
        (500, "a kernel failed", None, b""),
        (503, "overloaded", None, b"7"),
        (503, "overloaded", None, b"9" * 99),
    ],
)
async def test_error_of_an_engine_says_in_every_dialect_whether_to_retry(
    gateway: Gateway, serve: Serve, path: str, status: int, said: str, retry: object, pause: bytes
) -> None:
    whole = json.dumps({"error": {"message": said}}).encode()
    more = b"Retry-After: %b\r\n" % pause if pause else b""
    await serve(
        once(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % status
            + more
            + b"Content-Length: %d\r\n\r\n%b" % (len(whole), whole)
        )
    )
    head, body = await told(gateway, path=path)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nx-should-retry: false\r\n" in head + b"\r\n") == (retry is False)
    assert (b"\r\nretry-after: 7" in head) == (pause == b"7")
    assert head.count(b"retry-after") == (pause == b"7")
    assert said in json.loads(body)["error"]["message"]
    assert b"x-sparkd-model" in head


@pytest.mark.parametrize("said", [b"", b"[" * 60_000, b'{"error": 5}', b"\xff\n\ndata: x", b"[]"])
async def test_whatever_an_engine_says_late_is_one_event(
    gateway: Gateway, serve: Serve, said: bytes
) -> None:
    await serve(refusing(SILENCE_S, said))
    _, body = await told(gateway)
    (last,) = sse.Reader().feed(without(beats("chat/completions", body), body))
    assert json.loads(last.text)["error"]["message"]


async def test_error_does_not_end_in_the_line_that_the_engine_broke_off(
    gateway: Gateway, serve: Serve
) -> None:
    part = b'data: {"id": "half'
    await serve(once(EVENTS, b"%x\r\n%b\r\n" % (len(part), part), pause_s=0.05))
    _, body = await told(gateway)
    broken, error = body.split(b"\n\n")[:2]
    assert broken == part
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "upstream_lost"


async def test_late_error_of_a_response_goes_on_from_the_last_number(
    gateway: Gateway, serve: Serve
) -> None:
    part = (
        b'event: response.created\ndata: {"type": "response.created", "sequence_number": 0}\n\n'
        b'event: x\ndata: {"type": "x", "sequence_number": 41}\n\n'
    )
    for sent in ((part,), (part[:-8], part[-8:])):
        framed = [b"%x\r\n%b\r\n" % (len(one), one) for one in sent]
        await serve(once(EVENTS, *framed, pause_s=0.05))
        _, body = await told(gateway, path="responses")
        last = sse.Reader().feed(body)[-1]
        failed = json.loads(last.text)
        assert (failed["type"], failed["sequence_number"]) == ("response.failed", 42)


# Clients that do not take their response.


def endless(peer: Peer) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % (64 * MIB) + bytes(64 * MIB)


async def lagging(gateway: Gateway, request: bytes) -> Client:
    """A client with a small window that has asked and reads nothing."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.setblocking(False)
    await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=link, limit=4096)
    client = Client(reader, writer)
    await client.say(request)
    return client


async def flood(peer: Peer) -> None:
    await peer.request()
    await peer.send(endless(peer))


async def stream_flood(peer: Peer) -> None:
    await peer.request()
    await peer.send(EVENTS)
    piece = b"data: " + b"x" * MIB + b"\n\n"
    for _ in range(64):
        await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))


@pytest.mark.parametrize("script", [flood, stream_flood], ids=["whole", "stream"])
async def test_client_that_takes_nothing_is_broken_off_and_the_journal_says_so(
    gateway: Gateway, serve: Serve, script: Script
) -> None:
    server = await serve(script)
    before = gateway.log().count("client_stalled")
    began_s = time.monotonic()
    client = await lagging(gateway, chat(body=STREAMED))
    await until(lambda: gateway.log().count("client_stalled") == before + 1)
    took_s = time.monotonic() - began_s
    assert STALL_S * 0.9 < took_s < STALL_S + 5
    await until(lambda: server.peers[0].client_left.is_set() or server.peers[0].writer.is_closing())
    with pytest.raises(ConnectionResetError):
        await client.to_end()
    client.leave()


async def test_client_that_takes_nothing_gives_way_sooner_to_a_stop(
    gateway: Gateway, serve: Serve
) -> None:
    await serve(flood)
    before = gateway.log().count("client_stalled")
    with (gateway.directory / "run/locks/m.transition").open("a") as lock:
        client = await lagging(gateway, chat())
        await asyncio.sleep(0.3)
        fcntl.flock(lock, fcntl.LOCK_EX)
        began_s = time.monotonic()
        await until(lambda: gateway.log().count("client_stalled") == before + 1)
        assert time.monotonic() - began_s < STALL_S * 0.75
    client.leave()


async def test_lease_is_free_once_a_stalled_client_is_broken_off(
    gateway: Gateway, serve: Serve
) -> None:
    await serve(flood)
    activity = gateway.directory / "run/locks/m.activity"
    client = await lagging(gateway, chat())
    await asyncio.sleep(0.3)
    with activity.open("a") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

        def free() -> bool:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        await until(free)
    client.leave()


async def test_slow_client_that_goes_on_reading_gets_it_all(gateway: Gateway, serve: Serve) -> None:
    size = 6 * MIB
    await serve(always(OK + b"Content-Length: %d\r\n\r\n" % size + bytes(size)))
    before = gateway.log().count("client_stalled")
    client = await lagging(gateway, chat("Connection: close"))
    await client.head()
    got, began_s = 0, time.monotonic()
    while got < size:
        part = await client.reader.read(32 << 10)
        assert part, got
        got += len(part)
        await asyncio.sleep(0 if time.monotonic() - began_s > 2 * STALL_S else 0.02)
    assert time.monotonic() - began_s > STALL_S
    assert gateway.log().count("client_stalled") == before
    client.leave()


@pytest.mark.parametrize("path", ["/", "/openapi.json"])
async def test_reader_that_takes_nothing_holds_no_other_endpoint(
    gateway: Gateway, path: str
) -> None:
    before = gateway.descriptors()
    ask = f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    client = await lagging(gateway, b"")
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(STALL_S):
            await client.say(ask * 2000)
    await until(lambda: gateway.descriptors() <= before)
    client.leave()
