# SPDX-License-Identifier: Apache-2.0
"""Clients without a key that send large bodies: the gateway answers, and its memory stays small."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from .hosts import Host

MIB = 1 << 20
BODY_PIECES, PIECE = 120, bytes(MIB)
CLIENTS = 10
GROWTH_MOST = 20 * MIB
LIMIT_S = 300.0
ROUTES = (
    *("GET /healthz", "GET /", "GET /status", "GET /v1/models", "GET /events", "GET /logs/m"),
    *("POST /v1/chat/completions", "POST /nowhere", "DELETE /v1/models", "OPTIONS /nowhere"),
    *("POST /models/m/load", "POST http://["),
)


def peak_bytes(host: Host) -> int:
    """The most memory that the gateway ever had."""
    pid = host.sh("systemctl show --value --property=MainPID sparkd")
    return int(host.sh(f"grep VmHWM /proc/{pid}/status").split()[1]) * 1024


async def answered(route: str, *, chunked: bool) -> bytes:
    """The first line of the answer to a client that sends all of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", 8009)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {BODY_PIECES * MIB}"
    writer.write(f"{route} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n".encode())
    with contextlib.suppress(ConnectionError):
        for _ in range(BODY_PIECES):
            writer.write(b"%x\r\n%b\r\n" % (MIB, PIECE) if chunked else PIECE)
            await writer.drain()
    line = await reader.readline()
    writer.transport.abort()
    return line


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_large_bodies_without_a_key_take_no_memory_on_any_route(
    trixie: Host, chunked: bool
) -> None:
    async def crowd(route: str) -> list[bytes]:
        return await asyncio.gather(*(answered(route, chunked=chunked) for _ in range(CLIENTS)))

    assert trixie.request("GET", "/status").status_code == 200
    before_bytes = peak_bytes(trixie)
    for route in ROUTES:
        for line in trixie.loop.run(crowd(route), LIMIT_S):
            assert line.startswith(b"HTTP/1.1 "), route
        assert peak_bytes(trixie) - before_bytes < GROWTH_MOST, route


def test_the_service_has_a_memory_limit_far_above_what_bodies_may_take(trixie: Host) -> None:
    limit = trixie.sh("systemctl show --value --property=MemoryMax sparkd")
    assert int(limit) == 2048 * MIB


async def asked(key: str, body: bytes) -> int:
    """The status for a client with a key that sends a large body."""
    async with httpx.AsyncClient(
        base_url="http://127.0.0.1:8009",
        headers={"authorization": f"Bearer {key}"},
        timeout=LIMIT_S,
    ) as client:
        response = await client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        return response.status_code


def test_crowd_with_a_key_and_the_largest_bodies_stays_far_below_the_limit(host: Host) -> None:
    """Bodies near `body_limit`, as dense as sparkd reads them, from ten clients at once."""
    # Nearly as many values as one body may have, then one long string that fills it up.
    words = b",".join(b'{"type":"text","text":"%07d"}' % n for n in range(90_000))
    picture = b'{"type":"text","text":"%b"}' % (b"x" * (56 * MIB))
    body = b'{"model":"fake-b","messages":[{"role":"user","content":[%b,%b]}]}' % (words, picture)

    async def crowd() -> list[int]:
        return await asyncio.gather(*(asked(host.key, body) for _ in range(CLIENTS)))

    assert host.request("GET", "/status").status_code == 200
    pid = host.sh("systemctl show --value --property=MainPID sparkd")
    statuses = set(host.loop.run(crowd(), LIMIT_S))
    print(f"peak {peak_bytes(host) / MIB:.0f} MiB, statuses {sorted(statuses)}")
    assert statuses <= {200, 400, 413, 503}
    assert host.sh("systemctl show --value --property=MainPID sparkd") == pid
    assert peak_bytes(host) < 2048 * MIB * 3 // 4
    assert host.request("GET", "/healthz", key=None).status_code == 200
