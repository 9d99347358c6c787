# SPDX-License-Identifier: Apache-2.0
"""CPU time of a request in several checkouts, measured in turns, so that noise meets all of them.

`python tests/bench/interleaved.py TREE TREE...` prints the median per checkout; an older one stands
beside this one as `git worktree add ../before COMMIT`. The model server is a loop in this process.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROUNDS, CLIENTS, REQUESTS = 3, 8, 250
BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
ANSWER = b'{"object":"chat.completion","choices":[{"message":{"content":"hi"}}]}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        print(*asyncio.run(measured(Path(sys.argv[2]))))
        return
    found: dict[str, list[float]] = {place: [] for place in sys.argv[1:]}
    for _ in range(ROUNDS):
        for place, samples in found.items():
            command = [sys.executable, __file__, "--one", place]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            samples.extend(map(float, done.stdout.split()))
    for place, samples in found.items():
        print(f"{place}: {statistics.median(samples):.0f} µs of CPU a request, {len(samples)} runs")


async def measured(tree: Path) -> list[float]:
    """Microseconds of the gateway's CPU time per request, five times."""
    sys.path.insert(0, str(tree))
    os.chdir(tree)
    try:
        process = importlib.import_module("tests.integration.daemon_process")
    except ImportError:  # Its name in older checkouts.
        process = importlib.import_module("tests.integration.alone")
    with tempfile.TemporaryDirectory() as directory:
        gateway = process.Gateway(Path(directory))
        server = await asyncio.start_unix_server(answer, str(gateway.engine))
        await client(gateway.port, process.KEY, REQUESTS)
        samples = []
        for _ in range(5):
            before_s = cpu_s(gateway)
            clients = (client(gateway.port, process.KEY, REQUESTS) for _ in range(CLIENTS))
            await asyncio.gather(*clients)
            samples.append((cpu_s(gateway) - before_s) / (CLIENTS * REQUESTS) * 1e6)
        gateway.end()
        server.close()
    return samples


def cpu_s(gateway: Any) -> float:
    fields = Path(f"/proc/{gateway._process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The model server: the same answer to every request of a connection."""
    try:
        while True:
            await body_of(reader)
            writer.write(HEAD % len(ANSWER) + ANSWER)
    except asyncio.IncompleteReadError:
        writer.close()


async def client(port: int, key: str, requests: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    for _ in range(requests):
        writer.write(head.encode() + BODY)
        assert await body_of(reader) == ANSWER
    writer.close()


async def body_of(reader: asyncio.StreamReader) -> bytes:
    """The body of the next message; it has a length."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    (length,) = (line.split(b":")[1] for line in lines if line.startswith(b"content-length:"))
    return await reader.readexactly(int(length))


if __name__ == "__main__":
    main()
