# SPDX-License-Identifier: Apache-2.0
"""The load generator: one process of its own that asks, clocks and checks, and does nothing else.

Reads one job a line as JSON on stdin and answers each with one line of JSON on stdout. It is
started inside the host's network and pinned to a core; it knows neither sparkd nor the host. Every
answer is checked, because a bench of errors is no bench. Needs only httptools.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from time import perf_counter
from typing import Any

import httptools

ANSWER_LIMIT_S = 60.0
"""The longest that any single answer may take before it counts as lost."""
SHOWN_BYTES = 400
NO_LIMIT = 1 << 60
_CONTENT = re.compile(rb'"content":"((?:[^"\\]|\\.)*)"')

Json = dict[str, Any]


class Exchange(asyncio.Protocol):
    """One connection: sends a request when told to, and tells when its answer is whole."""

    def __init__(self, request: bytes, on_end: Callable[[Exchange], None]) -> None:
        self._request = request
        self._on_end = on_end
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self.asking = False
        self.sent_s = 0.0
        self.first_byte_s = 0.0
        self.ended_s = 0.0
        self.parts: list[bytes] = []
        self.arrivals: list[tuple[float, int]] = []
        """When which number of body bytes had arrived."""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self) -> None:
        self.asking = True
        self.first_byte_s = 0.0
        self.parts.clear()
        self.arrivals.clear()
        self.sent_s = perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.first_byte_s:
            self.first_byte_s = perf_counter()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)
        self.arrivals.append((perf_counter(), len(body)))

    def on_message_complete(self) -> None:
        self.ended_s = perf_counter()
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.asking:
            self.lost = True
            self._end()

    @property
    def status(self) -> int:
        return 0 if self.lost else self._parser.get_status_code()

    def close(self) -> None:
        self.asking = False
        self._transport.close()

    def _end(self) -> None:
        self.asking = False
        self._on_end(self)


async def connect(target: Json, request: bytes, on_end: Callable[[Exchange], None]) -> Exchange:
    loop = asyncio.get_running_loop()

    def make() -> Exchange:
        return Exchange(request, on_end)

    if "unix" in target:
        _, exchange = await loop.create_unix_connection(make, target["unix"])
    else:
        _, exchange = await loop.create_connection(make, "127.0.0.1", target["port"])
    return exchange


class Wrong:
    """Answers that were not what was asked for: how many, and what the first one was."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def note(self, exchange: Exchange) -> None:
        self.count += 1
        said = b"".join(exchange.parts)[:SHOWN_BYTES].decode(errors="replace")
        self.first = self.first or f"status {exchange.status}, lost {exchange.lost}: {said}"


class ClosedLoop:
    """Keeps every connection busy: each asks again as soon as it has its answer."""

    def __init__(self, expected: bytes) -> None:
        self._expected = expected
        self._waiting = 0
        self._left = 0
        self._ends_s = 0.0
        self._finished = asyncio.Event()
        self.wrong = Wrong()
        self.first_byte_ms: list[float] = []
        self.whole_ms: list[float] = []
        self.total = 0
        """Right answers since the start, those of the warm-up and the late ones too."""

    async def run(self, exchanges: list[Exchange], *, requests: int, limit_s: float) -> float:
        """Ask until that many requests were sent or the time is up; how long that took.

        Answers that come after the time are waited for, but do not count.
        """
        self.first_byte_ms, self.whole_ms = [], []
        self._waiting, self._left = len(exchanges), requests - len(exchanges)
        began_s = perf_counter()
        self._ends_s = began_s + limit_s
        self._finished.clear()
        for exchange in exchanges:
            exchange.ask()
        async with asyncio.timeout(limit_s + ANSWER_LIMIT_S):
            await self._finished.wait()
        return min(perf_counter() - began_s, limit_s)

    def on_end(self, exchange: Exchange) -> None:
        if exchange.status != 200 or self._expected not in b"".join(exchange.parts):
            self.wrong.note(exchange)
        else:
            self.total += 1
        if exchange.ended_s <= self._ends_s and not self.wrong.count:
            self.first_byte_ms.append((exchange.first_byte_s - exchange.sent_s) * 1e3)
            self.whole_ms.append((exchange.ended_s - exchange.sent_s) * 1e3)
        if self._left > 0 and exchange.ended_s < self._ends_s and not self.wrong.count:
            self._left -= 1
            exchange.ask()
            return
        self._waiting -= 1
        if self._waiting == 0:
            self._finished.set()


async def closed_loop(job: Json) -> Json:
    """Ask over N connections for `measure_s` or until `requests` answers, after a warm-up."""
    loop = ClosedLoop(job["expected"].encode())
    request = job["request"].encode()
    exchanges = [
        await connect(job["target"], request, loop.on_end) for _ in range(job["connections"])
    ]
    requests, measure_s = job.get("requests", NO_LIMIT), job.get("measure_s", ANSWER_LIMIT_S)
    await loop.run(exchanges, requests=NO_LIMIT, limit_s=job["warm_s"])
    took_s = 1.0
    if not loop.wrong.count:
        took_s = await loop.run(exchanges, requests=requests, limit_s=measure_s)
    for exchange in exchanges:
        exchange.close()
    return {
        "answers": len(loop.whole_ms),
        "total": loop.total,
        "seconds": took_s,
        "per_s": len(loop.whole_ms) / took_s,
        "first_byte_ms": spread(loop.first_byte_ms),
        "whole_ms": spread(loop.whole_ms),
        "wrong": loop.wrong.count,
        "wrong_first": loop.wrong.first,
    }


async def streams(job: Json) -> Json:
    """Open N connections, then ask for one stream on each at the same moment."""
    exchanges = await asked_together(job, limit_s=ANSWER_LIMIT_S)
    return streamed(exchanges, lambda exchange: is_whole(exchange, job["words"]))


async def asked_together(job: Json, *, limit_s: float) -> list[Exchange]:
    """N connections, each of which was asked at the same moment, and all have ended."""
    finished = asyncio.Event()
    waiting: set[Exchange] = set()

    def on_end(exchange: Exchange) -> None:
        waiting.discard(exchange)
        if not waiting:
            finished.set()

    request = job["request"].encode()
    exchanges = [await connect(job["target"], request, on_end) for _ in range(job["connections"])]
    waiting.update(exchanges)
    for exchange in exchanges:
        exchange.ask()
    async with asyncio.timeout(limit_s):
        await finished.wait()
    for exchange in exchanges:
        exchange.close()
    return exchanges


def streamed(
    exchanges: list[Exchange], is_right: Callable[[Exchange], bool], *, textless: int = 0
) -> Json:
    """What came of such streams, of which the first events may have no text."""
    wrong = Wrong()
    first_ms, gaps_ms, events = [], [], 0
    for exchange in exchanges:
        if not is_right(exchange):
            wrong.note(exchange)
            continue
        times = event_times(exchange)[textless:]
        events += len(times)
        first_ms.append((times[0] - exchange.sent_s) * 1e3)
        gaps_ms += [(after - before) * 1e3 for before, after in pairwise(times)]
    return {
        "streams": len(exchanges) - wrong.count,
        "events": events,
        "seconds": max(e.ended_s for e in exchanges) - min(e.sent_s for e in exchanges),
        "ttft_ms": spread(first_ms),
        "gap_ms": spread(gaps_ms),
        "wrong": wrong.count,
        "wrong_first": wrong.first,
    }


def is_whole(exchange: Exchange, words: int) -> bool:
    """Whether the stream has every token in order and its end mark."""
    body = b"".join(exchange.parts)
    said = b"".join(_CONTENT.findall(body)).decode()
    filler = [f"w{number}" for number in range(2, words)]
    return (
        exchange.status == 200
        and said.split() == ["echo:", "hello", *filler]
        and body.endswith(b"data: [DONE]\n\n")
    )


def event_times(exchange: Exchange) -> list[float]:
    """When each server-sent event was whole, the end mark left out.

    Events that came in one piece have the same time: to a client they are one late and some
    instant ones.
    """
    body, times, at = b"".join(exchange.parts), [], 0
    for arrived_s, size in exchange.arrivals:
        times += [arrived_s] * body.count(b"\n\n", max(0, at - 1), at + size)
        at += size
    return times[:-1]


async def connect_once(job: Json) -> Json:
    """One new connection and one request: the time from connect to the first byte."""
    ended = asyncio.Event()
    request, expected = job["request"].encode(), job["expected"].encode()
    began_s = perf_counter()
    exchange = await connect(job["target"], request, lambda _: ended.set())
    exchange.ask()
    async with asyncio.timeout(ANSWER_LIMIT_S):
        await ended.wait()
    wrong = Wrong()
    if exchange.status != 200 or expected not in b"".join(exchange.parts):
        wrong.note(exchange)
    exchange.close()
    return {
        "first_byte_ms": (exchange.first_byte_s - began_s) * 1e3,
        "wrong": wrong.count,
        "wrong_first": wrong.first,
    }


def spread(values_ms: list[float]) -> Json:
    """Median, 99th percentile and maximum, by nearest rank; nothing for no values."""
    if not values_ms:
        return {}
    ranked = sorted(values_ms)
    last = len(ranked) - 1
    return {
        "p50": ranked[round(last * 0.5)],
        "p99": ranked[round(last * 0.99)],
        "max": ranked[last],
    }


KINDS = {"closed": closed_loop, "streams": streams, "once": connect_once}


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        try:
            result = asyncio.run(KINDS[job["kind"]](job))
        except (OSError, TimeoutError) as error:
            result = {"wrong": 1, "wrong_first": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
