# SPDX-License-Identifier: Apache-2.0
"""Clients that ask five models at random, and what kills the gateway and the models under them.

Every answer is judged: it is right, or one of the errors that a kill explains, or wrong. A
connection may break only while the gateway is being killed. A test that needs a moment without
kills, such as an upgrade with an open stream, holds `peace`. In `silence` no client sends requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from .accounting import HOSTILE
from .hosts import Host, answer_of, chat_body, client
from .test_scheduling import resident

MODELS = ("fake-a", "fake-b", "fake-c", "fake-util", "fake-excl")
HOSTILE_SHARE = 0.1
"""Of all requests; whatever the hostile engine does, the other models must not suffer."""
HOSTILE_PATIENCE_S = 3.0
CLIENTS = 8
SEED = int(os.environ.get("SPARKD_SOAK_SEED", str(random.SystemRandom().randrange(10**6))))
VIOLENCE_EVERY_S = 6.0
AGAINST_MODELS = ("payload", "conmon", "scope")
AGAINST_THE_GATEWAY = ("daemon", "restart")
EXPECTED_ERRORS = {"upstream_lost", "start_crashed", "unavailable", "upstream_unreachable"}
"""What may be answered while daemons, models and their conmons are being killed."""
_BREAKS_WITHIN_S = 5.0
"""How far from the moment at which the gateway is killed, or gives up waiting, it may show."""
_DRAIN_S = 30.0
"""What `drain_timeout` is unless somebody says otherwise."""
_LATE_S = 20.0
"""How much later than that a busy host may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rests:
    """All clients are silent together now and then, so that models are stopped for being idle."""

    every_s: float
    for_s: float

    def remaining_s(self, since_s: float) -> float:
        """How long the present rest still lasts, of a soak that has gone on for so long."""
        left_s = self.every_s - since_s % self.every_s
        return left_s if left_s < self.for_s else 0.0


@dataclass(slots=True)
class Cut:
    """When the gateway may break connections off."""

    since_s: float
    until_s: float = math.inf


class Soak:
    def __init__(self, host: Host, duration_s: float, rests: Rests | None = None) -> None:
        self.host = host
        self.key = host.key
        self.random = random.Random(SEED)
        self.counts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        """Answers to inference requests, by status, whoever asked."""
        self.wrong: list[str] = []
        self.peace = threading.Lock()
        self.duration_s = duration_s
        self.began_s = math.nan
        self._rests = rests
        self._held = False
        self._open = 0
        self._cuts: list[Cut] = []

    @property
    def until_s(self) -> float:
        return self.began_s + self.duration_s

    def begin(self) -> None:
        self.began_s = time.monotonic()

    async def clients(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        count = 0
        while time.monotonic() < self.until_s:
            if self._rests is not None:
                await asyncio.sleep(self._rests.remaining_s(time.monotonic() - self.began_s))
            if self._held:
                await asyncio.sleep(0.1)
                continue
            count += 1
            self._open += 1
            await self._request(f"c{number} n{count}")
            self._open -= 1
            await asyncio.sleep(self.random.random())

    async def _request(self, text: str) -> None:
        if self.random.random() < HOSTILE_SHARE:
            await self._provoke(text)
            return
        model = self.random.choice(MODELS)
        impatient = self.random.random() < 0.2
        began_s = time.monotonic()
        try:
            async with client(self.key, timeout_s=300) as http:
                async with asyncio.timeout(self.random.random() * 2 if impatient else None):
                    body = chat_body(model, text)
                    response = await http.post("/v1/chat/completions", json=body)
        except TimeoutError:
            self.counts["left"] += 1
        except httpx.HTTPError as error:
            # The daemon was killed while it answered: the connection breaks.
            self.counts[f"broken {type(error).__name__}"] += 1
            if not self.was_cut(began_s):
                self.wrong.append(f"{text!r} broke, and nobody killed the gateway: {error!r}")
        else:
            self._judge(response, text)

    async def _provoke(self, text: str) -> None:
        """Ask the hostile engine; its client follows no redirect, and must not be sent any."""
        body = chat_body(HOSTILE, text, stream=self.random.random() < 0.5)
        self.counts["hostile"] += 1
        with contextlib.suppress(TimeoutError, httpx.HTTPError):
            async with client(self.key, timeout_s=300) as http:
                async with asyncio.timeout(HOSTILE_PATIENCE_S):
                    response = await http.post("/v1/chat/completions", json=body)
            if 300 <= response.status_code < 400 or "location" in response.headers:
                self.wrong.append(f"a redirect of the engine passed: {response.headers}")

    def _judge(self, response: httpx.Response, text: str) -> None:
        self.answered[str(response.status_code)] += 1
        if response.status_code == 200:
            said = answer_of(response)
            self.counts["right"] += 1
            if said != f"echo: {text}":
                self.wrong.append(f"{text!r} was answered by {said!r}")
            return
        code = response.json()["error"]["code"]
        self.counts[code] += 1
        if code not in EXPECTED_ERRORS:
            self.wrong.append(response.text)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """No client asks anything, for as long as the block lasts."""
        self._held = True
        try:
            self.host.wait_until(lambda: self._open == 0, "all clients are answered", 300)
            yield
        finally:
            self._held = False

    def was_cut(self, began_s: float) -> bool:
        """Whether the gateway was killed while a request was open that began then and ends now."""
        now_s = time.monotonic()
        return any(cut.since_s <= now_s and began_s <= cut.until_s for cut in self._cuts)

    def violence(self, kinds: tuple[str, ...], until_s: float) -> None:
        """Kill something of these kinds every few seconds, until it is time."""
        while time.monotonic() < until_s:
            time.sleep(VIOLENCE_EVERY_S * (0.5 + self.random.random()))
            with self.peace:
                kind = self.random.choice(kinds)
                self.counts[f"killed {kind}"] += 1
                self._kill(kind)

    def _kill(self, kind: str) -> None:
        if kind == "daemon":
            self._cuts.append(Cut(time.monotonic()))
            self.host.run("systemctl", "kill", "--signal=KILL", "sparkd.service", check=False)
            self._cuts[-1].until_s = time.monotonic() + _BREAKS_WITHIN_S
        elif kind == "restart":
            self.host.run("systemctl", "restart", "--no-block", "sparkd.service")
            # One that has requests open cuts them only at the end of its patience.
            ends_s = time.monotonic() + _DRAIN_S
            self._cuts.append(Cut(ends_s - _BREAKS_WITHIN_S, ends_s + _LATE_S))
        else:
            victim = next(iter(sorted(resident(self.host))), None)
            if victim is not None:
                self._kill_model(kind, victim)

    def _kill_model(self, kind: str, model: str) -> None:
        if kind == "scope":
            unit = f"sparkd-model-{model}.scope"
            self.host.run("systemctl", "--user", "stop", unit, user="sparkd", check=False)
            return
        field = {"payload": ".State.Pid", "conmon": ".State.ConmonPid"}[kind]
        name = f"sparkd-model-{model}"
        form = "{{" + field + "}}"
        pid = self.host.run("podman", "inspect", "-f", form, name, user="sparkd", check=False)
        if pid.returncode == 0 and pid.stdout.strip() not in ("", "0"):
            self.host.run("kill", "-9", pid.stdout.strip(), check=False)
