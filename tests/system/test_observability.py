# SPDX-License-Identifier: Apache-2.0
"""Metrics and statistics: right, in agreement with each other, and at nobody's cost."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter

from .accounting import Accounts, scraped, stats
from .hosts import SETTINGS, Host, answer_of, chat_body, client

STREAM_OPTIONS = {"include_usage": True}


def test_metrics_statistics_journal_and_clients_agree(host: Host) -> None:
    host.configure(SETTINGS)
    host.stop_models()
    # A start ends the session that an earlier test may have left open, before the counting begins.
    for model in ("fake-util", "fake-c", "fake-b"):
        host.run("sparkctl", "start", model)
        host.run("sparkctl", "stop", model)
    accounts = Accounts(host)
    chance = random.Random(7)
    seen: Counter[tuple[str, str]] = Counter()
    tokens: Counter[str] = Counter()
    key = host.key

    async def ask(model: str, number: int) -> None:
        stream = chance.random() < 0.5
        options = {"stream": True, "stream_options": STREAM_OPTIONS} if stream else {}
        body = chat_body(model, f"word {number}", **options)
        async with client(key, timeout_s=60) as http:
            response = await http.post("/v1/chat/completions", json=body)
        seen["-" if model == "nobody" else model, str(response.status_code)] += 1
        if response.status_code == 200:
            lines = [line for line in response.text.splitlines() if '"usage":{' in line]
            usage = json.loads(lines[-1].removeprefix("data: "))["usage"]
            tokens["prompt"] += usage["prompt_tokens"]
            tokens["completion"] += usage["completion_tokens"]

    async def load() -> None:
        for model in ("fake-b", "fake-util", "fake-c", "nobody", "fake-b", "fake-b"):
            await asyncio.gather(*(ask(model, number) for number in range(25)))

    host.loop.run(load(), 300)
    host.wait_for_requests()
    host.run("sparkctl", "stop", "fake-util")

    by_metrics, by_journal = accounts.of_metrics(), accounts.of_journal()
    assert seen == by_metrics.requests == by_journal.requests
    by_statistics = accounts.of_statistics()
    assert by_metrics.loads == by_journal.loads == by_statistics.loads
    assert by_metrics.loads == {"fake-b": 2, "fake-c": 1, "fake-util": 1}
    assert by_metrics.stops == by_journal.stops == by_statistics.stops
    assert by_metrics.stops == {
        ("fake-b", "evicted"): 1,
        ("fake-c", "evicted"): 1,
        ("fake-util", "asked"): 1,
    }
    assert accounts.grown("sparkd_swaps_total") == 2
    for kind, count in tokens.items():
        told = [
            accounts.grown("sparkd_tokens_total", model=model, kind=kind)
            for model in ("fake-b", "fake-c", "fake-util")
        ]
        assert sum(told) == count > 0
    in_flight = [name for name, _ in scraped(host) if name == "sparkd_requests_in_flight"]
    assert in_flight == []


def test_scrape_wakes_no_model_and_counts_as_no_use(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    host.wait_for_requests()
    used_at = "stat -c %y /run/sparkd/locks/fake-b.activity"
    used = host.sh(used_at)
    page = scraped(host)
    assert host.sh(used_at) == used
    assert page["sparkd_engine_up", (("model", "fake-b"),)] == 1
    engine = {dict(labels)["model"] for name, labels in page if name.startswith("vllm:")}
    assert engine == {"fake-b"}
    states = {
        dict(labels)["model"]: dict(labels)["state"]
        for name, labels in page
        if name == "sparkd_model_state"
    }
    assert states["fake-b"] == "ready"
    assert {state for model, state in states.items() if model != "fake-b"} == {"stopped"}


def test_engine_that_hangs_never_blocks_the_scrape(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    host.wait_for_requests()
    pid = host.sh("podman inspect -f '{{.State.Pid}}' sparkd-model-fake-b", user="sparkd")
    host.run("kill", "-STOP", pid)
    try:
        began_s = time.monotonic()
        page = scraped(host)
        assert time.monotonic() - began_s < 60
        assert page["sparkd_engine_up", (("model", "fake-b"),)] == 0
        assert not [name for name, _ in page if name.startswith("vllm:")]
    finally:
        host.run("kill", "-CONT", pid)


def test_counters_go_on_after_the_daemon_left_and_came_back(host: Host) -> None:
    host.chat("nobody")
    host.wait_for_requests()
    key = (
        "sparkd_requests_total",
        (
            ("model", "-"),
            ("operation", "chat/completions"),
            ("reason", "model_not_found"),
            ("status", "404"),
        ),
    )
    before = scraped(host)
    host.run("systemctl", "stop", "sparkd.service")
    after = scraped(host)
    assert after[key] == before[key] > 0
    starts = ("sparkd_daemon_starts_total", ())
    assert after[starts] == before[starts] + 1


def test_ten_thousand_names_that_do_not_exist_make_no_series_and_take_no_memory(
    host: Host,
) -> None:
    key = host.key

    async def ask(worker: int) -> None:
        # By hand, because a client library takes longer than the gateway.
        reader, writer = await asyncio.open_connection("127.0.0.1", 8009)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        for number in range(625):
            body = json.dumps({"model": f"x-{worker}-{number}", "messages": []})
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 404")
            length = re.search(rb"content-length: (\d+)", answer)
            assert length
            await reader.readexactly(int(length[1]))
        writer.close()

    async def load() -> None:
        await asyncio.gather(*(ask(worker) for worker in range(16)))

    def resident() -> float:
        return scraped(host)["process_resident_memory_bytes", ()]

    host.chat("nobody")
    series, before = len(scraped(host)), resident()
    host.loop.run(load(), 300)
    assert len(scraped(host)) <= series + 1
    assert resident() - before < 8 << 20


def test_session_that_ended_while_nobody_was_there_counts(host: Host) -> None:
    host.stop_models()
    before = stats(host).get("fake-b", {"sessions": 0, "ends": {}})
    host.run("sparkctl", "start", "fake-b")
    host.run("systemctl", "stop", "sparkd.service")
    assert stats(host)["fake-b"]["running"] is not None
    host.run("podman", "kill", "sparkd-model-fake-b", user="sparkd")
    host.wait_until(
        lambda: stats(host)["fake-b"]["running"] is None, "the kill is seen in the statistics"
    )
    host.run("sparkctl", "start", "fake-b")
    host.run("sparkctl", "stop", "fake-b")
    after = stats(host)["fake-b"]
    assert after["sessions"] == before["sessions"] + 2
    assert after["ends"]["ended"] == before["ends"].get("ended", 0) + 1
    assert after["ends"]["asked"] == before["ends"].get("asked", 0) + 1
    assert after["recent"][-1]["max_bytes"] > 1 << 20
    shown = host.request("GET", "/debug/gpu-stats/fake-b").json()
    assert shown["model"] == "fake-b"
    assert shown["stats"]["sessions"] == after["sessions"]
    assert host.request("GET", "/debug/gpu-stats/fake-hang").status_code == 404


def test_model_that_is_not_to_be_logged_leaves_nothing_in_the_journal(host: Host) -> None:
    host.configure(f"{SETTINGS}log_output: false\n")
    cursor = host.cursor()
    answer_of(host.chat("fake-b"))
    printed = "CONTAINER_NAME=sparkd-model-fake-b", "_COMM=conmon"
    assert host.journal(*printed, since=cursor) == []
    host.configure(SETTINGS)
    host.run("sparkctl", "stop", "fake-b")
    answer_of(host.chat("fake-b"))
    host.wait_until(lambda: host.journal(*printed, since=cursor) != [], "it is logged again")


def test_what_is_logged_changes_without_a_restart(host: Host) -> None:
    host.configure(SETTINGS)
    host.chat("nobody")
    pid = host.sh("systemctl show -p MainPID --value sparkd.service")

    def logged(setting: str) -> list[str]:
        host.run("tee", "/etc/sparkd/sparkd.yaml", input=f"{SETTINGS}log_requests: {setting}\n")
        host.run("systemctl", "reload", "sparkd.service")
        # It returns when the signal is sent; whoever asks after that is heard after the reload.
        cursor = host.cursor()
        host.chat("nobody")
        answer_of(host.chat("fake-util"))
        host.wait_for_requests()
        return [
            entry["SPARKD_STATUS"] for entry in host.journal("SPARKD_EVENT=request", since=cursor)
        ]

    assert logged("none") == []
    assert logged("errors") == ["404"]
    assert logged("all") == ["404", "200"]
    cursor = host.cursor()

    def levels() -> list[str]:
        said = [entry["MESSAGE"] for entry in host.journal("_PID=" + pid, since=cursor)]
        return [line for line in said if line.startswith("the log level")]

    def send(signal: str, *, expected: list[str]) -> None:
        host.run("systemctl", "kill", "-s", signal, "--kill-whom=main", "sparkd.service")
        host.wait_until(lambda: levels() == expected, f"the journal has {expected}")

    changes = ["the log level is debug now", "the log level is info now"]
    send("RTMIN+22", expected=changes[:1])
    send("RTMIN+23", expected=changes)
    assert host.sh("systemctl show -p MainPID --value sparkd.service") == pid
