# SPDX-License-Identifier: Apache-2.0
"""The transport alone, beside httpx's own: the same requests to the same fake engine.

Run it from the root of the repository: `python -m tests.bench.transport`. The engine
runs on the last core, the client on the first. Prints, asserts nothing but that answers are whole.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from pathlib import Path

import httpx

from sparkd.adapters.engine.transport import LocalTransport, Timeouts

SERVER = Path(__file__).resolve().parents[1] / "engines" / "fake-vllm" / "server.py"
URL = "http://model/v1/chat/completions"
HEADERS = [("host", "model"), ("content-type", "application/json")]
SMALL = b'{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":8}'
STREAM = SMALL.replace(b'"max_tokens":8', b'"max_tokens":100,"stream":true,"fake":{"pace_ms":20}')
LIMITS = httpx.Timeout(connect=5, read=None, write=60, pool=None)
OUR_LIMITS = Timeouts(connect_s=5, write_s=60)
REQUESTS, STREAMS, ROUNDS = 1000, 64, 3

Post = Callable[[bytes], Awaitable[bytes]]


async def body_of(parts: AsyncIterable[bytes]) -> bytes:
    return b"".join([part async for part in parts])


def through_httpx(transport: httpx.AsyncBaseTransport) -> Post:
    async def post(body: bytes) -> bytes:
        extensions = {"timeout": LIMITS.as_dict()}
        request = httpx.Request("POST", URL, headers=HEADERS, content=body, extensions=extensions)
        response = await transport.handle_async_request(request)
        try:
            return await body_of(response.aiter_raw())
        finally:
            await response.aclose()

    return post


def direct(transport: LocalTransport) -> Post:
    async def post(body: bytes) -> bytes:
        target = "/v1/chat/completions"
        exchange = await transport.send("POST", target, HEADERS, body, OUR_LIMITS)
        try:
            return await body_of(exchange)
        finally:
            await exchange.close()

    return post


async def one_after_another(post: Post) -> tuple[float, float]:
    """Requests a second, and microseconds of our CPU for each."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in range(REQUESTS):
        assert b"echo: hello" in await post(SMALL)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    return REQUESTS / took_s, cpu_s / REQUESTS * 1e6


async def streams(post: Post) -> float:
    """Seconds of our CPU for 1,000 events, with all streams at once."""
    cpu_s = time.process_time()
    bodies = await asyncio.gather(*(post(STREAM) for _ in range(STREAMS)))
    assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
    return (time.process_time() - cpu_s) * 1000 / sum(body.count(b"\n\n") for body in bodies)


async def measure(socket: str) -> None:
    """The best of some rounds each, taken in turn so that a busy machine is fair to all."""
    stock, own = httpx.AsyncHTTPTransport(uds=socket), LocalTransport(socket)
    posts = {
        "httpx's transport": through_httpx(stock),
        "LocalTransport": direct(own),
    }
    best = {name: [0.0, float("inf"), float("inf")] for name in posts}
    for _ in range(ROUNDS):
        for name, post in posts.items():
            per_s, cpu_us = await one_after_another(post)
            chunks_cpu_s = await streams(post)
            row = best[name]
            row[:] = max(row[0], per_s), min(row[1], cpu_us), min(row[2], chunks_cpu_s)
    await stock.aclose()
    await own.close()
    print(f"{'':30}{'req/s':>8}{'CPU µs/req':>12}{'CPU s/1,000 events':>20}")
    for name, (per_s, cpu_us, chunks_cpu_s) in best.items():
        print(f"{name:30}{per_s:8.0f}{cpu_us:12.0f}{chunks_cpu_s:20.4f}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        socket = f"{directory}/api.sock"
        engine = subprocess.Popen(
            [
                *("taskset", "--cpu-list", str(cores[-1]), sys.executable, str(SERVER)),
                *("serve", "m", "--served-model-name", "m", "--uds", socket),
                "--fake-load-seconds=0",
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            while not os.path.exists(socket):
                time.sleep(0.05)
            os.sched_setaffinity(0, cores[:1])
            asyncio.run(measure(socket))
        finally:
            engine.kill()
            engine.wait()


if __name__ == "__main__":
    main()
