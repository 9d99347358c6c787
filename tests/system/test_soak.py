# SPDX-License-Identifier: Apache-2.0
"""Random use and random violence over five models, with a hostile one beside them.

Every answer is right or a clear error.

One minute in `make test`; SPARKD_SOAK_S makes it longer (`make soak`: half an hour), and
SPARKD_SOAK_SEED repeats a run. In the last third no daemon is killed: what one that lives through
it does not give back is a leak.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter

from .accounting import HOSTILE, Accounts, difference
from .hosts import SETTINGS, Host, answer_of
from .leftovers import wait_for_nothing
from .load_actors import Company
from .soak import (
    AGAINST_MODELS,
    AGAINST_THE_GATEWAY,
    CLIENTS,
    MODELS,
    SEED,
    VIOLENCE_EVERY_S,
    Soak,
)

DURATION_S = float(os.environ.get("SPARKD_SOAK_S", "60"))
CALM_SHARE = 1 / 3
AT_REST_DESCRIPTORS = 40
GROWTH_KIB = 10 * 1024
AT_REST_KIB = 68 * 1024
"""Of the daemon, however many models it has started: 60 MiB, and what a crowd leaves in pieces."""


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
    """All that keep count of the last part of the soak say the same, but for models that were idle
    or killed while the accounts were opened, or killed when the next one was being started."""
    by_metrics, by_journal = accounts.of_metrics(), accounts.of_journal()
    by_statistics = accounts.of_statistics()
    assert difference(by_metrics.requests, by_journal.requests) <= 2 * CLIENTS
    assert difference(by_metrics.loads, by_statistics.loads) <= 2
    assert difference(by_metrics.stops, by_statistics.stops) <= 2
    assert difference(by_journal.loads, by_statistics.loads) <= 2
    kills = sum(count for (_, reason), count in by_statistics.stops.items() if reason == "ended")
    # The journal tells what was done; of a model that was killed when that began, two things.
    assert difference(by_journal.stops, by_statistics.stops) <= 2 + 2 * kills


def test_soak_ends_with_right_answers_and_nothing_left(host: Host) -> None:
    host.configure(SETTINGS)
    endure(Soak(host, DURATION_S))


def endure(soak: Soak, company: Company | None = None) -> Counter[str]:
    """Let it all happen, and then hold it against everything that keeps count; what happened."""
    host = soak.host
    print(f"\nseed {SEED}, {soak.duration_s:g} s")
    cursor = host.cursor()
    with company or Company(soak) as company:
        soak.begin()
        running = asyncio.run_coroutine_threadsafe(soak.clients(), host.loop.event_loop)
        kinds = (*AGAINST_THE_GATEWAY, *AGAINST_MODELS)
        soak.violence(kinds, soak.until_s - soak.duration_s * CALM_SHARE)
        company.calm()
        # From here on one gateway lives, so that what it does not give back shows. This waits for
        # a restart that is still under way.
        host.run("systemctl", "start", "sparkd.service")
        assert host.request("GET", "/status").status_code == 200
        with soak.silence():
            host.wait_for_requests()
            accounts = Accounts(host)
            answered, left = Counter(soak.answered), soak.counts["left"]
        before = daemon(host)
        soak.violence(AGAINST_MODELS, soak.until_s - VIOLENCE_EVERY_S)
        running.result(soak.duration_s + 400)
    host.wait_for_requests()
    print(f"load average {os.getloadavg()[1]:.0f}")
    counts = soak.counts | company.counts | told(host, cursor)
    print(json.dumps(counts, sort_keys=True))
    assert soak.wrong == []
    assert company.complaints == []
    agree(accounts)
    ours = (soak.answered - answered)["200"]
    theirs = accounts.of_journal().answers
    # Of a client that left when its answer was on the way, the gateway may have sent all of it.
    assert ours <= theirs <= ours + soak.counts["left"] - left
    assert soak.counts["right"] > soak.duration_s / 10
    leave(host)
    after = daemon(host)
    print(f"daemon, pid, descriptors, KiB: {before} in use, {after} at rest")
    assert after[0] == before[0], "the daemon died by itself"
    # Between two requests there were hardly more before.
    most = min(before[1] + CLIENTS, AT_REST_DESCRIPTORS)
    assert after[1] <= most, "descriptors of requests are still open"
    assert after[2] < before[2] + GROWTH_KIB, "memory of requests that ended was not given back"
    assert after[2] < AT_REST_KIB, "memory of starts that ended was not given back"
    return counts


def leave(host: Host) -> None:
    """Every model answers once more and is stopped; then nothing is left of any."""
    for model in MODELS:
        # One that was killed while it started backs off; an admin need not wait for that.
        host.run("sparkctl", "start", model)
        assert answer_of(host.chat(model, "still there", timeout_s=300)) == "echo: still there"
    assert host.request("GET", "/status").json()["queue"] == []
    host.run("sparkctl", "stop", "--now", HOSTILE)
    for model in (*MODELS[3:], *MODELS[:3]):
        # The utility before the exclusive model, which would have it come back.
        assert host.request("POST", f"/models/{model}/unload").status_code == 200
    wait_for_nothing(host)
