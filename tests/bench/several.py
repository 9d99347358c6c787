# SPDX-License-Identifier: Apache-2.0
"""Workloads with several models: swaps, and answers of one while many wait for others."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from .measure import watched
from .subject import PORT, BenchError, Subject
from .workload import (
    BUSY_S,
    CROWD,
    CROWD_CONNECTIONS,
    MODEL,
    OTHERS,
    ROUNDS,
    SETTINGS_FILE,
    SWAP_SETTINGS,
    SWAPS,
    WAIT_SETTINGS,
    WARM_S,
)

BY_HAND = Path(__file__).with_name("by_hand.py")
_GATHER_TIMEOUT_S = 60.0

Json = dict[str, Any]


def swaps(subject: Subject) -> Json:
    """One model takes the place of another, by Podman and systemd alone and through sparkd."""
    host, pair = subject.host, OTHERS[:2]
    host.stop_models()
    words = ("python3", "-", str(SWAPS), *pair)
    printed = host.run(*words, user="sparkd", input=BY_HAND.read_text()).stdout
    by_hand_s = json.loads(printed)
    host.stop_models()
    with host.file(SETTINGS_FILE, SWAP_SETTINGS):
        _ask(subject, pair[0])
        sparkd_s = [_ask(subject, pair[(number + 1) % 2]) for number in range(SWAPS)]
        host.stop_models()
    return {
        "direct": {"s": by_hand_s, "median_s": median(by_hand_s)},
        "sparkd": {"s": sparkd_s, "median_s": median(sparkd_s)},
        "added_s": median(sparkd_s) - median(by_hand_s),
    }


def _ask(subject: Subject, model: str) -> float:
    """One small answer, whole; the seconds it took."""
    job = {"kind": "once", "target": subject.sparkd.target, "expected": "echo: hello"}
    request = subject.chat_request(model)
    began_s = time.monotonic()
    subject.ask_generator({**job, "request": request})
    return time.monotonic() - began_s


def crowded(subject: Subject) -> Json:
    """Small answers of a resident model, while nobody and while many wait for other models."""
    host = subject.host
    host.stop_models()
    job = {
        "kind": "closed",
        "connections": CROWD_CONNECTIONS,
        "request": subject.chat_request(MODEL),
        "expected": "echo: hello",
        "warm_s": WARM_S,
        "measure_s": BUSY_S,
        "target": subject.sparkd.target,
    }
    rounds: list[Json] = []
    with host.file(SETTINGS_FILE, WAIT_SETTINGS):
        _ask(subject, MODEL)
        subject.pin(MODEL)
        # A model that is in use all the time stays, whoever waits for its place.
        endless = {"stream": True, "fake": {"tokens": 100_000, "pace_ms": 1000}}
        with _open(subject, [subject.chat_request(MODEL, **endless)]):
            for _ in range(ROUNDS):
                alone = watched(subject, subject.sparkd, job)
                with _waiting(subject):
                    rounds.append(
                        {"alone": alone, "crowded": watched(subject, subject.sparkd, job)}
                    )
        host.stop_models()
    result: Json = {"rounds": rounds}
    for way in ("alone", "crowded"):
        result[way] = {
            "per_s": median(each[way]["per_s"] for each in rounds),
            "cpu_s_per_1000": median(
                each[way]["cpu_s"] / each[way]["total"] * 1000 for each in rounds
            ),
        }
    return result


@contextmanager
def _waiting(subject: Subject) -> Iterator[None]:
    """A crowd that waits for models whose place is taken."""
    request = [subject.chat_request(OTHERS[n % len(OTHERS)], stream=True) for n in range(CROWD)]
    with _open(subject, request):
        _wait_for_queue(subject, CROWD)
        yield
    _wait_for_queue(subject, 0)


def _wait_for_queue(subject: Subject, count: int) -> None:
    give_up_s = time.monotonic() + _GATHER_TIMEOUT_S
    while True:
        queue = subject.host.request("GET", "/status").json()["queue"]
        found = sum(entry["waiting"] for entry in queue)
        if found == count:
            return
        if time.monotonic() > give_up_s:
            raise BenchError(f"{found} requests wait instead of {count}: {queue}")
        time.sleep(0.2)


@contextmanager
def _open(subject: Subject, requests: list[str]) -> Iterator[None]:
    """A connection a request, kept open; whatever is answered is read and forgotten."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * CROWD)), hard))
    loop = subject.host.loop
    tasks: list[asyncio.Task[None]] = []

    async def one(request: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        try:
            writer.write(request.encode())
            while await reader.read(1 << 16):
                pass
        finally:
            writer.close()

    async def begin() -> None:
        tasks.extend(asyncio.ensure_future(one(request)) for request in requests)

    async def end() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.run(begin())
    try:
        yield
    finally:
        loop.run(end())
