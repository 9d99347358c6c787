# SPDX-License-Identifier: Apache-2.0
"""Slow clients over real sockets: the gateway warns each one and then disconnects it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from sanic import Sanic

from sparkd.adapters.files.config_files import config_paths
from sparkd.adapters.files.key_files import KeyFiles
from sparkd.core.model import Config, Dialect, ModelSpec
from sparkd.gateway.application import create_server
from sparkd.gateway.context import Context
from sparkd.gateway.handlers import relay
from sparkd.gateway.http import protocol

pytestmark = pytest.mark.integration

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-right\r\n"

CONFIG = Config(models={"m": ModelSpec(model_id="m", image="i", dialects=(Dialect.CHAT,))})


@asynccontextmanager
async def gateway(etc: Path) -> AsyncIterator[tuple[int, Context]]:
    """The gateway's own application, with nothing behind it; its port and context."""
    (etc / "api-key").touch(mode=0o600)
    (etc / "api-key").write_text("sk-right\n")
    keys = KeyFiles(config_paths({"SPARKD_CONFIG_DIR": str(etc)}), {})
    nothing = cast(Any, None)
    context = Context(runtime=nothing, proxy=nothing, config=CONFIG, keys=keys, sampler=nothing)
    server = create_server(context)
    listening = socket.create_server(("127.0.0.1", 0))
    await server.listen([listening])
    try:
        yield listening.getsockname()[1], context
    finally:
        server.stop_accepting()
        server.abort()
        await asyncio.sleep(0)
        listening.close()
        Sanic.unregister_app(server.app)


async def crept(port: int, said: bytes, creeping: bytes, *, times: int) -> bytes:
    """The answer to a client that says something at once, and the rest byte by byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = bytearray()

    async def listen() -> None:
        # Whoever still writes to a connection that is closed has it reset.
        with suppress(ConnectionError):
            while part := await reader.read(4096):
                answer.extend(part)

    listening = asyncio.create_task(listen())
    writer.write(said)
    for _ in range(times):
        if not listening.done():
            writer.write(creeping)
            await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        await listening
    writer.close()
    return bytes(answer)


async def scenes(etc: Path) -> dict[str, bytes]:
    async with gateway(etc) as (port, context):
        length = b"Content-Length: 1000000\r\n\r\n"
        end = b"Connection: close\r\n\r\n"
        compressed = HEAD + b"Content-Encoding: gzip\r\n" + length
        told = {
            "head": await crept(port, HEAD + b"X-Slow: ", b"x", times=40),
            "body": await crept(port, HEAD + length, b"x", times=40),
            "two keys": await crept(
                port, HEAD + b"Authorization: Bearer x\r\n" + end, b"", times=1
            ),
            # With nothing behind the gateway, a request for a model meets a defect.
            "defect": await crept(
                port, HEAD + b"Content-Length: 13\r\n" + end + b'{"model":"m"}', b"", times=1
            ),
            "compressed": await crept(port, compressed, b"x", times=40),
        }
        counted = context.traffic.counts["sparkd_requests_total"]
        (told["defect, as counted"],) = [
            " ".join(labels).encode() for labels in counted if labels[0] == "m"
        ]
        return told


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What clients got who took their time; all of one gateway, as Sanic has one a process."""
    with pytest.MonkeyPatch.context() as patched:
        for module, name in (
            (protocol, "HEAD_S"),
            (protocol, "LINGER_S"),
            (relay, "_BODY_STALL_S"),
        ):
            patched.setattr(module, name, 0.3)
        return await scenes(tmp_path_factory.mktemp("etc"))


def test_head_that_creeps_must_come_in_time(answers: dict[str, bytes]) -> None:
    assert answers["head"].startswith(b"HTTP/1.1 408 ")
    assert b"the head did not come within 0.3 s" in answers["head"]
    assert b"\r\nconnection: close\r\n" in answers["head"]


def test_body_that_creeps_must_keep_a_pace(answers: dict[str, bytes]) -> None:
    assert answers["body"].startswith(b"HTTP/1.1 400 ")
    assert b"body_stalled" in answers["body"]
    assert b"\r\nconnection: close\r\n" in answers["body"]


def test_refused_body_that_creeps_does_not_hold_the_connection(answers: dict[str, bytes]) -> None:
    assert answers["compressed"].startswith(b"HTTP/1.1 415 ")
    assert b"encoding_unsupported" in answers["compressed"]


def test_request_with_two_keys_is_nobodys(answers: dict[str, bytes]) -> None:
    assert answers["two keys"].startswith(b"HTTP/1.1 400 ")
    assert b"two Authorization headers" in answers["two keys"]


def test_defect_is_answered_and_counted_as_a_failure(answers: dict[str, bytes]) -> None:
    assert answers["defect"].startswith(b"HTTP/1.1 500 ")
    assert b"internal_error" in answers["defect"]
    assert answers["defect, as counted"] == b"m chat/completions 500 internal_error"
