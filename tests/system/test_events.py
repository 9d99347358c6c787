# SPDX-License-Identifier: Apache-2.0
"""Events: one source, the journal; told by gateway and sparkctl, whoever made them happen."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from .hosts import SETTINGS, Host, answer_of, client

FLOOD = """
import socket
said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
entry = {"MESSAGE": "x" * 60000, "MESSAGE_ID": "e81f5b3c6a9d4270b7c42d1e08f3a596",
         "SPARKD_EVENT": "model-ready", "SYSLOG_IDENTIFIER": "flood"}
for number in range(400):
    said.sendto("".join(f"{k}={v}\\n" for k, v in entry.items()).encode(),
                "/run/systemd/journal/socket")
"""
"""24 MB of events, more than any socket buffers for a reader that does not read."""


def listened(host: Host, until: str, *, headers: dict[str, str] | None = None) -> asyncio.Future:
    """Start to listen on the host's loop; the future has the events up to the one named."""

    async def listen() -> list[dict[str, Any]]:
        events = []
        async with (
            client(host.key, timeout_s=60) as http,
            http.stream("GET", "/events", headers=headers or {}) as response,
        ):
            assert response.status_code == 200
            started.set()
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    events.append(json.loads(line.removeprefix("data: ")))
                    if events[-1]["event"] == until:
                        return events
        return events

    async def ready() -> None:
        await started.wait()

    started = asyncio.Event()
    future = asyncio.run_coroutine_threadsafe(listen(), host.loop.event_loop)
    host.loop.run(ready())
    return future  # type: ignore[return-value]


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def test_listener_is_told_of_a_load_and_of_the_stop_by_another_process(host: Host) -> None:
    host.configure(SETTINGS)
    host.stop_models()
    future = listened(host, "model-stopped")
    answer_of(host.chat("fake-a"))
    events = future.result(40)
    for event in events:
        assert event["model"] == "fake-a"
    assert names(events)[:2] == ["queue", "model-starting"]
    loads = [event for event in events if event["event"] == "load-progress"]
    assert {event["phase"] for event in loads} >= {"weights"}
    assert [e["percent"] for e in loads if "percent" in e] == [25, 50, 75, 100]
    assert "model-ready" in names(events)
    assert events[-1]["reason"] == "idle"

    # Whoever lost his connection is told what he missed, and nothing twice.
    last_id = str(round(events[1]["at"] * 1e6))
    again = listened(host, "model-stopped", headers={"last-event-id": last_id}).result(20)
    assert again == events[2:]


def test_listener_that_comes_back_beside_one_that_stayed_is_told_what_he_missed(
    host: Host,
) -> None:
    stayed, left = listened(host, "model-stopped"), listened(host, "model-ready")
    host.run("sparkctl", "start", "fake-util")
    events = left.result(30)
    assert names(events)[0] != "model-ready"
    first_id = str(round(events[0]["at"] * 1e6))
    again = listened(host, "model-ready", headers={"last-event-id": first_id}).result(20)
    assert again == events[1:]
    host.run("sparkctl", "stop", "fake-util")
    assert names(stayed.result(20))[: len(events)] == names(events)


def test_nothing_reads_the_journal_when_nobody_listens(host: Host) -> None:
    future = listened(host, "model-ready")
    assert host.run("pgrep", "-u", "sparkd", "journalctl").stdout.strip()
    host.run("sparkctl", "start", "fake-util")
    assert "model-starting" in names(future.result(30))
    host.wait_until(
        lambda: host.run("pgrep", "-u", "sparkd", "journalctl", check=False).stdout == "",
        "journalctl ends with its last listener",
    )


def test_listener_that_never_reads_is_dropped(host: Host) -> None:
    async def ask() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", 8009)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        head = f"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {host.key}\r\n\r\n"
        writer.write(head.encode())
        return writer

    def listening() -> bool:
        return host.run("pgrep", "-u", "sparkd", "journalctl", check=False).stdout != ""

    writer = host.loop.run(ask())
    host.wait_until(listening, "the listener is served")
    time.sleep(0.5)
    host.run("python3", "-c", FLOOD, user="sparkd")
    host.wait_until(lambda: not listening(), "the listener is dropped", timeout_s=40)
    host.loop.event_loop.call_soon_threadsafe(writer.close)
    assert host.request("GET", "/healthz").status_code == 200


def test_listener_is_told_that_the_daemon_leaves_and_does_not_hold_it(host: Host) -> None:
    future = listened(host, "left")
    began_s = time.monotonic()
    host.run("systemctl", "stop", "sparkd.service")
    assert names(future.result(60))[-1] == "left"
    assert time.monotonic() - began_s < 20


def test_model_that_is_killed_from_outside_is_told(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    future = listened(host, "model-ended")
    host.run("podman", "kill", "sparkd-model-fake-b", user="sparkd")
    event = future.result(20)[-1]
    assert (event["model"], event["exit_code"]) == ("fake-b", 137)


def test_sparkctl_tells_events_without_the_daemon(host: Host) -> None:
    host.run("systemctl", "stop", "sparkd.service")
    cursor = host.cursor()
    host.run("sparkctl", "start", "fake-c")
    host.run("sparkctl", "stop", "fake-c")
    lines = host.run("sparkctl", "events", "--json", "-n", "50", "fake-c").stdout.splitlines()
    told = [json.loads(line) for line in lines]
    entries = host.journal("SPARKD_MODEL=fake-c", since=cursor)
    assert names(told)[-len(entries) :] == [entry["SPARKD_EVENT"] for entry in entries]
    assert names(told)[-1] == "model-stopped"
    assert "model-ready" in host.run("sparkctl", "events", "-n", "50", "fake-c").stdout
    assert host.system_unit_states()["sparkd.service"] == "inactive"
