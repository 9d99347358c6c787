# SPDX-License-Identifier: Apache-2.0
"""Random use and random violence over five models; every answer is right or a clear error.

One minute in `make test`; SPARKD_SOAK_S makes it longer (`make soak`: half an hour), and
SPARKD_SOAK_SEED repeats a run. In the last third no daemon is killed: what one that lives through
it does not give back is a leak.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter

import httpx

from .agreement import Accounts, difference
from .hosts import SETTINGS, Host, answer_of, chat_body, client
from .remains import wait_for_nothing
from .test_scheduling import resident

MODELS = ("fake-a", "fake-b", "fake-c", "fake-util", "fake-excl")
CLIENTS = 8
DURATION_S = float(os.environ.get("SPARKD_SOAK_S", "60"))
SEED = int(os.environ.get("SPARKD_SOAK_SEED", str(random.SystemRandom().randrange(10**6))))
VIOLENCE_EVERY_S = 6.0
CALM_SHARE = 1 / 3
AGAINST_MODELS = ("payload", "conmon", "scope")
AT_REST_DESCRIPTORS = 40
GROWTH_KIB = 10 * 1024
AT_REST_KIB = 68 * 1024
"""Of the daemon, however many models it has started: 60 MiB, and what a crowd leaves in pieces."""
_EXPECTED_ERRORS = {"upstream_lost", "start_crashed", "unavailable", "upstream_unreachable"}
"""What may be answered while daemons, models and their conmons are being killed."""


class Soak:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.key = host.key
        self.random = random.Random(SEED)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.until_s = time.monotonic() + DURATION_S

    async def clients(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        count = 0
        while time.monotonic() < self.until_s:
            count += 1
            await self._request(f"c{number} n{count}")
            await asyncio.sleep(self.random.random())

    async def _request(self, text: str) -> None:
        model = self.random.choice(MODELS)
        impatient = self.random.random() < 0.2
        try:
            async with client(self.key, timeout_s=120) as http:
                async with asyncio.timeout(self.random.random() * 2 if impatient else None):
                    body = chat_body(model, text)
                    response = await http.post("/v1/chat/completions", json=body)
        except TimeoutError:
            self.counts["left"] += 1
        except httpx.HTTPError as error:
            # The daemon was killed while it answered: the connection breaks.
            self.counts[f"broken {type(error).__name__}"] += 1
        else:
            self._judge(response, text)

    def _judge(self, response: httpx.Response, text: str) -> None:
        if response.status_code == 200:
            said = answer_of(response)
            self.counts["right"] += 1
            if said != f"echo: {text}":
                self.wrong.append(f"{text!r} was answered by {said!r}")
            return
        code = response.json()["error"]["code"]
        self.counts[code] += 1
        if code not in _EXPECTED_ERRORS:
            self.wrong.append(response.text)

    def violence(self, kinds: tuple[str, ...], until_s: float) -> None:
        """Kill something of these kinds every few seconds, until it is time."""
        while time.monotonic() < until_s:
            time.sleep(VIOLENCE_EVERY_S * (0.5 + self.random.random()))
            kind = self.random.choice(kinds)
            self.counts[f"killed {kind}"] += 1
            self._kill(kind)

    def _kill(self, kind: str) -> None:
        if kind == "daemon":
            self.host.run("systemctl", "kill", "--signal=KILL", "sparkd.service", check=False)
        elif kind == "restart":
            self.host.run("systemctl", "restart", "--no-block", "sparkd.service")
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


def daemon(host: Host) -> tuple[str, int, int]:
    """Of the running daemon its pid, how many descriptors it has, and its memory in KiB."""
    pid = host.sh("systemctl show -p MainPID --value sparkd.service")
    script = f"ls /proc/{pid}/fd | wc -l; grep VmRSS /proc/{pid}/status | tr -dc 0-9"
    descriptors, rss_kib = host.sh(script).split()
    return pid, int(descriptors), int(rss_kib)


def told(host: Host, cursor: str) -> Counter[str]:
    """How often the journal tells each thing that happens to models."""
    entries = host.journal("SPARKD_EVENT=model-ready", "SPARKD_EVENT=model-stopped", since=cursor)
    return Counter(
        " ".join((entry["SPARKD_EVENT"], entry.get("SPARKD_REASON", ""))).strip()
        for entry in entries
    )


def agree(accounts: Accounts) -> None:
    """All that keep count of the last part of the soak say the same, but for what was under way
    while the accounts were opened, and models whose kill fell into the start of the next one."""
    by_metrics, by_journal = accounts.of_metrics(), accounts.of_journal()
    by_statistics = accounts.of_statistics()
    assert difference(by_metrics.requests, by_journal.requests) <= 2 * CLIENTS
    assert difference(by_metrics.loads, by_statistics.loads) <= 2
    assert difference(by_metrics.stops, by_statistics.stops) <= 2
    assert difference(by_journal.loads, by_statistics.loads) <= 2
    kills = sum(count for (_, reason), count in by_statistics.stops.items() if reason == "ended")
    assert difference(by_journal.stops, by_statistics.stops) <= 2 + kills


def test_soak_ends_with_right_answers_and_nothing_left(host: Host) -> None:
    print(f"\nseed {SEED}, {DURATION_S:g} s")
    host.configure(SETTINGS)
    cursor = host.cursor()
    soak = Soak(host)
    running = asyncio.run_coroutine_threadsafe(soak.clients(), host.loop.event_loop)
    soak.violence(("daemon", "restart", *AGAINST_MODELS), soak.until_s - DURATION_S * CALM_SHARE)
    # From here on one daemon lives through all of it, so that what it does not give back shows.
    assert host.request("GET", "/status").status_code == 200
    accounts = Accounts(host)
    before = daemon(host)
    soak.violence(AGAINST_MODELS, soak.until_s - VIOLENCE_EVERY_S)
    running.result(DURATION_S + 200)
    print(json.dumps(soak.counts | told(host, cursor), sort_keys=True))
    assert soak.wrong == []
    agree(accounts)
    assert soak.counts["right"] > DURATION_S / 10

    for model in MODELS:
        # One that was killed while it started backs off; an admin need not wait for that.
        host.run("sparkctl", "start", model)
        assert answer_of(host.chat(model, "still there", timeout_s=120)) == "echo: still there"
    assert host.request("GET", "/status").json()["queue"] == []
    for model in (*MODELS[3:], *MODELS[:3]):
        # The utility before the exclusive model, which would have it come back.
        assert host.request("POST", f"/models/{model}/unload").status_code == 200
    wait_for_nothing(host)
    after = daemon(host)
    print(f"daemon, pid, descriptors, KiB: {before} in use, {after} at rest")
    assert after[0] == before[0], "the daemon died by itself"
    assert after[1] <= min(before[1], AT_REST_DESCRIPTORS), "descriptors of requests are still open"
    assert after[2] < before[2] + GROWTH_KIB, "memory of requests that ended was not given back"
    assert after[2] < AT_REST_KIB, "memory of starts that ended was not given back"
