# SPDX-License-Identifier: Apache-2.0
"""HTTP to a model's server, against the fake engine as a process: what arrives, and every break."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.adapters.engine.client import Answer, ConnectFailed, EngineClient
from sparkd.core.errors import UpstreamLost
from sparkd.core.observed import Endpoint

pytestmark = pytest.mark.integration

SERVER = Path(__file__).resolve().parents[1] / "engines" / "fake-vllm" / "server.py"
CHAT = "/v1/chat/completions"
DEADLINE_S = 60.0


class Engine:
    """A fake engine on a unix socket, and what it says of itself."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.socket = path
        self._process = subprocess.Popen(
            [
                *(sys.executable, str(SERVER), "serve", "m", "--served-model-name", "m"),
                *("--uds", str(path), "--switch-file", str(path.with_suffix(".json"))),
                *("--fake-load-seconds=0", *arguments),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def state(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("model")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.socket))
        try:
            connection.request("GET", "/fake/state")
            state: dict[str, Any] = json.load(connection.getresponse())
            return state
        finally:
            connection.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def start_engine(*arguments: str) -> Engine:
        engines.append(Engine(tmp_path / "api.sock", *arguments))
        return engines[-1]

    yield start_engine
    for engine in engines:
        engine.kill()


@pytest.fixture
async def engine_client(tmp_path: Path) -> AsyncIterator[EngineClient]:
    engine_client = EngineClient(Endpoint(socket=tmp_path / "api.sock"))
    yield engine_client
    await engine_client.close()


@pytest.fixture
async def engine(start: Callable[..., Engine], engine_client: EngineClient) -> Engine:
    engine = start()
    await until_healthy(engine_client)
    return engine


async def until_healthy(engine_client: EngineClient) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await engine_client.healthy():
            await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.02)


def body_of(text: str = "one two three", **more: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **more}).encode()


async def ask(engine_client: EngineClient, body: bytes) -> Answer:
    async with asyncio.timeout(DEADLINE_S):
        return await engine_client.send("POST", CHAT, {"content-type": "application/json"}, body)


async def whole(answer: Answer) -> bytes:
    try:
        async with asyncio.timeout(DEADLINE_S):
            return b"".join([chunk async for chunk in answer.chunks()])
    finally:
        await answer.close()


async def test_server_is_asked_for_its_health_where_it_says(engine: Engine, tmp_path: Path) -> None:
    for health, is_healthy in (("/version", True), ("/no-such-path", False)):
        other = EngineClient(Endpoint(socket=tmp_path / "api.sock", health=health))
        try:
            assert await other.healthy() is is_healthy
        finally:
            await other.close()


async def test_server_is_healthy_once_it_has_loaded(
    start: Callable[..., Engine], engine_client: EngineClient
) -> None:
    assert not await engine_client.healthy()
    started_s = time.monotonic()
    start("--fake-load-seconds=0.5")
    await until_healthy(engine_client)
    assert time.monotonic() - started_s >= 0.5


async def test_request_arrives_byte_for_byte(engine: Engine, engine_client: EngineClient) -> None:
    body = b' {"messages": [ {"role":"user","content":"\\u00e4 \xc3\xa4"}],"x":1.50e0}\n'
    headers = {"content-type": "application/json", "x-request-id": "r-1", "x-odd": "A b"}
    answer = await engine_client.send("POST", CHAT + "?a=%2F", headers, body)
    await whole(answer)
    last = engine.state()["last"]
    assert base64.b64decode(last["body_base64"]) == body
    assert (last["method"], last["target"]) == ("POST", CHAT + "?a=%2F")
    sent = {name.lower(): value for name, value in last["headers"]}
    assert headers.items() <= sent.items()


async def test_answer_of_any_size_arrives_whole(
    engine: Engine, engine_client: EngineClient
) -> None:
    answer = await ask(engine_client, body_of("word " * 200_000))
    assert answer.status == 200
    assert answer.content_type == "application/json"
    content = json.loads(await whole(answer))["choices"][0]["message"]["content"]
    assert content.count("word") == 200_000


async def test_head_and_tokens_come_as_they_are_made(
    engine: Engine, engine_client: EngineClient
) -> None:
    answer = await ask(engine_client, body_of(stream=True, fake={"stall_after_tokens": 2}))
    seen = b""
    async with asyncio.timeout(DEADLINE_S):
        async for chunk in answer.chunks():
            seen += chunk
            if b'"content":" one"' in seen:
                break
    await answer.close()
    assert b'"content":"echo:"' in seen
    assert engine.state()["tokens"] == 2


async def test_stream_is_passed_on_as_the_server_wrote_it(
    engine: Engine, engine_client: EngineClient
) -> None:
    answer = await ask(engine_client, body_of("b" * 70_000 + " c", stream=True))
    events = (await whole(answer)).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    assert all(event.startswith(b"data: {") for event in events[:-2])


async def test_compressed_answer_stays_compressed(
    engine: Engine, engine_client: EngineClient
) -> None:
    # The engine compresses nothing: had the adapter believed the header, it would have failed.
    answer = await ask(engine_client, body_of(fake={"headers": {"content-encoding": "gzip"}}))
    content = await whole(answer)
    assert (b"content-encoding", b"gzip") in [(n.lower(), v) for n, v in answer.headers]
    assert json.loads(content)["object"] == "chat.completion"
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(content)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_error_of_the_server_is_an_answer(
    engine: Engine, engine_client: EngineClient, status: int
) -> None:
    fake = {"status": status, "headers": {"retry-after": "7"}}
    answer = await ask(engine_client, body_of(fake=fake))
    assert answer.status == status
    assert (b"retry-after", b"7") in [(n.lower(), v) for n, v in answer.headers]
    assert b"told to fail" in await whole(answer)


async def test_redirect_is_not_followed(engine: Engine, engine_client: EngineClient) -> None:
    fake = {"status": 307, "headers": {"location": "http://127.0.0.1:1/elsewhere"}}
    answer = await ask(engine_client, body_of(fake=fake))
    await answer.close()
    assert answer.status == 307


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_cancels_the_request(
    engine: Engine, engine_client: EngineClient, stream: bool
) -> None:
    fake = {"pace_ms": 50, "tokens": 1000}
    asking = asyncio.create_task(ask(engine_client, body_of(stream=stream, fake=fake)))
    await until(lambda: engine.state()["running"] == 1)
    if stream:
        await (await asking).close()
    else:
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await until(lambda: engine.state()["cancelled"] == 1)
    assert engine.state()["running"] == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["break_after_tokens", "crash_after_tokens"])
async def test_answer_that_breaks_off_is_never_taken_for_a_whole_one(
    engine: Engine, engine_client: EngineClient, how: str, stream: bool
) -> None:
    with pytest.raises(UpstreamLost) as caught:
        await whole(await ask(engine_client, body_of(stream=stream, fake={how: 2, "tokens": 9})))
    assert not isinstance(caught.value, ConnectFailed)
    assert "broke off" in caught.value.message


@pytest.mark.parametrize("kind", ["status_line", "header", "length", "chunk"])
async def test_what_is_not_http_is_a_break(
    engine: Engine, engine_client: EngineClient, kind: str
) -> None:
    with pytest.raises(UpstreamLost):
        await whole(await ask(engine_client, body_of(fake={"garbage": kind})))
    # And the next request does not meet what was left of it.
    assert b"echo:" in await whole(await ask(engine_client, body_of()))


async def test_server_that_does_not_exist_has_seen_nothing(engine_client: EngineClient) -> None:
    with pytest.raises(ConnectFailed, match=r"api\.sock does not accept connections") as caught:
        await ask(engine_client, body_of())
    assert caught.value.code == "upstream_unreachable"


async def test_server_that_died_has_seen_nothing_of_the_next_request(
    engine: Engine, engine_client: EngineClient
) -> None:
    await whole(await ask(engine_client, body_of()))
    engine.kill()
    with pytest.raises(ConnectFailed):
        await ask(engine_client, body_of())
    assert not await engine_client.healthy()


async def test_server_that_was_started_anew_is_reached(
    engine: Engine, start: Callable[..., Engine], engine_client: EngineClient
) -> None:
    await whole(await ask(engine_client, body_of()))
    engine.kill()
    engine.socket.unlink()
    start()
    await until_healthy(engine_client)
    assert b"echo:" in await whole(await ask(engine_client, body_of()))


async def test_many_requests_at_once_get_their_own_answers(
    engine: Engine, engine_client: EngineClient
) -> None:
    async def one(number: int) -> None:
        answer = await ask(engine_client, body_of(f"number {number}", stream=number % 2 == 0))
        assert f"{number}".encode() in await whole(answer)

    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(one(number))
    # The last one is counted after its client has it.
    await until(lambda: engine.state()["running"] == 0)
    state = engine.state()
    assert (state["completed"], state["cancelled"]) == (100, 0)


async def test_server_on_a_port_is_reached_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, str(SERVER), "serve", "m", "--port", str(port)]
    with subprocess.Popen([*command, "--fake-load-seconds=0"], stdout=subprocess.DEVNULL) as server:
        engine_client = EngineClient(Endpoint(port=port))
        try:
            await until_healthy(engine_client)
            assert b"echo:" in await whole(await ask(engine_client, body_of()))
        finally:
            await engine_client.close()
            server.kill()
