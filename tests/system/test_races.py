# SPDX-License-Identifier: Apache-2.0
"""Races that must come out right every time, run many times.

SPARKD_SWAP_ROUNDS and SPARKD_IDLE_ROUNDS say how often; `make rounds` has them run as often as
docs/reliability.md says, and tells by how much they were races at all.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from .hosts import Guest, Host, answer_of, chat_body, client
from .leftovers import wait_for_nothing

SWAP_ROUNDS = int(os.environ.get("SPARKD_SWAP_ROUNDS", "12"))
IDLE_ROUNDS = int(os.environ.get("SPARKD_IDLE_ROUNDS", "40"))
RACERS = 5
IDLE_S = 1.0
CATALOG_FILE = "/etc/sparkd/models.d/rounds.yaml"
CATALOG = "\n".join(
    (
        'defaults: {image: "localhost/sparkd-fake-vllm:latest", weights: none,',
        "           args: [--fake-load-seconds, 0.05]}",
        "models:",
        "  swap-one: {idle_timeout: 10m}",
        "  swap-two: {idle_timeout: 10m}",
        *(
            f"  race-{number}: {{lifecycle: utility, idle_timeout: {IDLE_S:g}s}}"
            for number in range(RACERS)
        ),
    )
)


@pytest.fixture
def rounds(host: Host) -> Iterator[Host]:
    with host.file(CATALOG_FILE, CATALOG):
        host.run("systemctl", "stop", "sparkd.service")
        yield host
        host.stop_models()


class Residents:
    """Looks every few milliseconds whether two models have processes, from outside the host."""

    def __init__(self, host: Host, models: tuple[str, str]) -> None:
        leader = Guest(host.name).leader_pid()
        uid = host.sh("id -u sparkd")
        manager = f"user.slice/user-{uid}.slice/user@{uid}.service/sparkd.slice"
        slice_ = Path(f"/proc/{leader}/root/sys/fs/cgroup") / manager
        self._one, self._other = (slice_ / f"sparkd-model-{model}.scope" for model in models)
        self.looks = 0
        self.seen = 0
        """How often there was a process of either."""
        self.both = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.005):
                self.looks += 1
                # A thread may rest for long between two readings: the first one counts only if it
                # is still so after the second.
                one, other = _running(self._one), _running(self._other)
                self.seen += one is not None or other is not None
                self.both += other is not None and one is not None and one == _running(self._one)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def _running(scope: Path) -> int | None:
    """Which instance of the scope has processes."""
    try:
        instance = scope.stat().st_ino
        return instance if "populated 1" in (scope / "cgroup.events").read_text() else None
    except OSError:
        # There is no such scope, or no more.
        return None


def test_two_stopped_models_asked_for_at_once_are_both_answered_and_never_both_resident(
    rounds: Host,
) -> None:
    models = ("swap-one", "swap-two")
    key = rounds.key
    residents = Residents(rounds, models)

    async def pair(number: int) -> list[str]:
        async with client(key, timeout_s=100) as http:
            asked = [
                http.post("/v1/chat/completions", json=chat_body(model, f"{model} {number}"))
                for model in random.sample(models, 2)
            ]
            said = sorted(answer_of(response) for response in await asyncio.gather(*asked))
            for model in models:
                (await http.post(f"/models/{model}/unload")).raise_for_status()
        return said

    began_s = time.monotonic()
    with residents.watched():
        for number in range(SWAP_ROUNDS):
            assert rounds.loop.run(pair(number)) == [f"echo: {m} {number}" for m in models]
            assert residents.both == 0, f"both were resident in round {number}"
    took_s = time.monotonic() - began_s
    print(f"\n{SWAP_ROUNDS} rounds in {took_s:.0f} s, {residents.looks} looks at the residents")
    assert residents.seen > 2 * SWAP_ROUNDS, "it did not look"
    wait_for_nothing(rounds)


class Racer:
    """Asks one model again and again at the instant at which it is stopped for being idle.

    An answer that needed a new start came too late for the race, one that did not too early, so
    the next request comes earlier or later by a step: the pause ends where the stop begins. Where
    that is depends on the host: as long as it has not been passed the steps become longer.
    """

    def __init__(self, model: str, rounds: int) -> None:
        self.model = model
        self._rounds = rounds
        self._late_s = 1.0
        self._number = 0
        self.counts: Counter[str] = Counter()

    async def run(self, key: str) -> None:
        async with client(key, timeout_s=100) as http:
            await self._ask(http, "first")
            before, step_s = None, 0.0
            while self._goes_on():
                await asyncio.sleep(IDLE_S + self._late_s)
                fresh = await self._ask(http, f"n{self.counts.total()}")
                self.counts["started anew" if fresh else "still there"] += 1
                step_s = 2 * step_s if fresh is before else random.uniform(0.05, 0.25)
                before = fresh
                self._late_s = max(-IDLE_S / 2, self._late_s + (-step_s if fresh else step_s))

    def _goes_on(self) -> bool:
        """For all its rounds, and on a host of another speed until it was a race at all."""
        count = self.counts.total()
        least = min(self.counts["started anew"], self.counts["still there"])
        return count < self._rounds or (least < self._rounds / 10 and count < 4 * self._rounds)

    async def _ask(self, http: httpx.AsyncClient, text: str) -> bool:
        """Whether the answer came from another process than the one before."""
        response = await http.post("/v1/chat/completions", json=chat_body(self.model, text))
        assert answer_of(response) == f"echo: {text}"
        before, self._number = self._number, int(response.json()["id"].rpartition("-")[2], 16)
        return self._number <= before


def test_request_at_the_instant_of_the_idle_stop_is_always_answered(rounds: Host) -> None:
    key = rounds.key
    racers = [Racer(f"race-{number}", -(-IDLE_ROUNDS // RACERS)) for number in range(RACERS)]

    async def race() -> None:
        await asyncio.gather(*(racer.run(key) for racer in racers))

    began_s = time.monotonic()
    rounds.loop.run(race(), timeout_s=60 + 10 * IDLE_ROUNDS)
    took_s = time.monotonic() - began_s
    counts = sum((racer.counts for racer in racers), Counter[str]())
    print(f"\n{counts.total()} rounds in {took_s:.0f} s: {dict(counts)}")
    assert counts.total() >= IDLE_ROUNDS
    assert min(counts["started anew"], counts["still there"]) >= IDLE_ROUNDS / 10, "hardly a race"
    wait_for_nothing(rounds)
