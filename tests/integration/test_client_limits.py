# SPDX-License-Identifier: Apache-2.0
"""Clients that take their time, over real sockets: each is told to hurry, and then let go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from sanic import Sanic

from sparkd.adapters.files import config_paths
from sparkd.adapters.keyfiles import KeyFiles
from sparkd.core.model import Config
from sparkd.web import exchange, wire
from sparkd.web.app import create_app
from sparkd.web.context import Context
from sparkd.web.wire import WireProtocol

pytestmark = pytest.mark.integration

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-right\r\n"


@asynccontextmanager
async def gateway(etc: Path) -> AsyncIterator[int]:
    """The gateway's own application, with nothing behind it; its port."""
    (etc / "api-key").touch(mode=0o600)
    (etc / "api-key").write_text("sk-right\n")
    keys = KeyFiles(config_paths({"SPARKD_CONFIG_DIR": str(etc)}), {})
    nothing = cast(Any, None)
    app = create_app(Context(runtime=nothing, proxy=nothing, config=Config(), keys=keys))
    listening = socket.create_server(("127.0.0.1", 0))
    Sanic.START_METHOD_SET = True
    server = await app.create_server(
        sock=listening, return_asyncio_server=True, protocol=WireProtocol
    )
    assert server is not None
    await server.startup()
    await server.start_serving()
    try:
        yield listening.getsockname()[1]
    finally:
        assert server.server is not None
        server.server.close()
        for connection in list(server.connections):
            connection.abort()
        listening.close()
        Sanic.unregister_app(app)


async def crept(port: int, said: bytes, creeping: bytes, *, times: int) -> bytes:
    """The answer to a client that says something at once, and the rest byte by byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    try:
        for _ in range(times):
            writer.write(creeping)
            await asyncio.sleep(0.05)
            if reader.at_eof() or writer.is_closing():
                break
    except ConnectionError:
        pass
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


def test_head_that_creeps_must_come_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "HEAD_S", 0.3)

    async def scene() -> bytes:
        async with gateway(tmp_path) as port:
            return await crept(port, HEAD + b"X-Slow: ", b"x", times=20)

    answer = asyncio.run(scene())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the head did not come within 0.3 s" in answer
    assert b"\r\nconnection: close\r\n" in answer


def test_body_that_creeps_must_keep_a_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_BODY_STALL_S", 0.3)

    async def scene() -> bytes:
        async with gateway(tmp_path) as port:
            return await crept(port, HEAD + b"Content-Length: 1000000\r\n\r\n", b"x", times=20)

    answer = asyncio.run(scene())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"body_stalled" in answer


def test_compressed_body_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async def scene() -> bytes:
        async with gateway(tmp_path) as port:
            said = (
                HEAD + b"Content-Encoding: gzip\r\nContent-Length: 99\r\nConnection: close\r\n\r\n"
            )
            return await crept(port, said, b"x" * 99, times=1)

    answer = asyncio.run(scene())
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"encoding_unsupported" in answer
