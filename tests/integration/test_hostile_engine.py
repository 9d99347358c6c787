# SPDX-License-Identifier: Apache-2.0
"""sparkd's own reads of an engine that means harm: bounded in bytes and time, one kind of error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from sparkd.adapters.engine.client import EngineClient
from sparkd.core.engine.metrics_page import merged
from sparkd.core.engine.step_counters import PAGE_LIMIT_BYTES, Steps, parse_steps
from sparkd.core.errors import UpstreamLost
from sparkd.core.observed import Endpoint, Instance
from sparkd.lifecycle.sleeper import QUESTION, SleepFailed, _post

pytestmark = pytest.mark.integration

FAKE = Path(__file__).resolve().parents[1] / "engines" / "fake-vllm"
WITHIN_S = 0.5
LATE_S = 5.0
"""How much later than its limit a busy machine may be."""
WORDLESS = (
    *("informed", "switching", "odd_status", "endless_head", "endless_body", "trickle"),
    *("trickling_head", "stalled", "garbage", "short", "two_lengths", "early"),
)
"""Kinds from which nothing whole can be read."""
WHOLE = ("redirect", "challenge", "for_browsers", "usage", "metrics", "lines", "deep", "twice")


class Engine:
    """A fake engine whose attacks can be switched."""

    def __init__(self, directory: Path) -> None:
        self.endpoint = Endpoint(socket=directory / "api.sock")
        self._switches = directory / "fake.json"
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(FAKE / "server.py"), "serve", "m", "--fake-load-seconds=0"),
                *("--uds", str(self.endpoint.socket), "--switch-file", str(self._switches)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def turn(self, kind: str, at: str = "/") -> None:
        unfinished = self._switches.with_suffix(".new")
        unfinished.write_text(json.dumps({"hostile": kind, "hostile_at": at}))
        unfinished.rename(self._switches)

    @property
    def instance(self) -> Instance:
        return Instance(
            model_id="m",
            container_id="c",
            pid=self.process.pid,
            spec_hash="h",
            endpoint=self.endpoint,
            started_at=0.0,
            started_s=0.0,
        )


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path)
    async with EngineClient(engine.endpoint) as engine_client, asyncio.timeout(60):
        while not await engine_client.healthy():
            await asyncio.sleep(0.02)
    yield engine
    engine.process.kill()
    engine.process.wait()


@pytest.mark.parametrize("kind", WORDLESS)
async def test_read_of_an_engine_ends_in_time_with_one_error(engine: Engine, kind: str) -> None:
    engine.turn(kind)
    before_bytes, began_s = psutil.Process().memory_info().rss, time.monotonic()
    async with EngineClient(engine.endpoint) as engine_client:
        with pytest.raises(UpstreamLost):
            await engine_client.fetch("/metrics", limit_bytes=PAGE_LIMIT_BYTES, timeout_s=WITHIN_S)
        assert not await engine_client.healthy(WITHIN_S)
    with pytest.raises(SleepFailed):
        await _post(engine.instance, "/sparkd/sleep?level=1", WITHIN_S)
    assert time.monotonic() - began_s < 3 * WITHIN_S + LATE_S
    assert psutil.Process().memory_info().rss - before_bytes < 20 << 20


@pytest.mark.parametrize("kind", WHOLE)
async def test_read_of_an_engine_has_a_status_and_no_more_than_the_limit(
    engine: Engine, kind: str
) -> None:
    engine.turn(kind)
    async with EngineClient(engine.endpoint) as engine_client:
        told = await engine_client.fetch("/metrics", limit_bytes=PAGE_LIMIT_BYTES, timeout_s=LATE_S)
        with pytest.raises(UpstreamLost, match="more than 10 bytes"):
            await engine_client.fetch("/metrics", limit_bytes=10, timeout_s=LATE_S)
    parse_steps(told.text)
    merged({"m": told.text})
    with contextlib.suppress(SleepFailed):
        await _post(engine.instance, "/v1/completions", LATE_S, {"prompt": QUESTION})


async def test_odd_metrics_are_no_reading(engine: Engine) -> None:
    engine.turn("metrics")
    async with EngineClient(engine.endpoint) as engine_client:
        told = await engine_client.fetch("/metrics", limit_bytes=PAGE_LIMIT_BYTES, timeout_s=LATE_S)
    assert parse_steps(told.text) == Steps(iterations=None, running=None)
    assert merged({"m": told.text})[0].splitlines() == [
        # NaN is a number to Prometheus.
        'vllm:iteration_tokens_total_count{model="m"} NaN'
    ]


@pytest.mark.parametrize("kind", ["redirect", "challenge", "endless_body", "stalled"])
async def test_engine_with_such_a_health_is_not_healthy(engine: Engine, kind: str) -> None:
    engine.turn(kind, "/health")
    async with EngineClient(engine.endpoint) as engine_client:
        assert not await engine_client.healthy(WITHIN_S)


async def test_loop_goes_on_while_the_largest_page_is_read(engine: Engine) -> None:
    engine.turn("lines")
    async with EngineClient(engine.endpoint) as engine_client:
        told = await engine_client.fetch("/metrics", limit_bytes=PAGE_LIMIT_BYTES, timeout_s=LATE_S)
        reading = asyncio.create_task(asyncio.to_thread(merged, {"m": told.text}))
        longest_s, last_s = 0.0, time.monotonic()
        while not reading.done():
            await asyncio.sleep(0.001)
            now_s = time.monotonic()
            longest_s, last_s = max(longest_s, now_s - last_s), now_s
    assert longest_s < 0.1
