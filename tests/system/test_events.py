# SPDX-License-Identifier: Apache-2.0
"""Events from one source, the journal, which gateway and sparkctl show whatever their cause."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

from .hosts import SETTINGS, Host, Stream, answer_of, client

FLOOD = """
import socket
said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
entry = {"MESSAGE": "x" * 60000, "MESSAGE_ID": "e81f5b3c6a9d4270b7c42d1e08f3a596",
         "SPARKD_EVENT": "model-ready", "SYSLOG_IDENTIFIER": "flood"}
for number in range(160):
    said.sendto("".join(f"{k}={v}\\n" for k, v in entry.items()).encode(),
                "/run/systemd/journal/socket")
"""
"""9.6 MB of events, more than sparkd's side of a connection buffers (4 MB: tcp_wmem)."""


class Listening:
    """Somebody who listens on the host's loop, up to the event of that name."""

    def __init__(self, host: Host, until: str, *, after: dict[str, Any] | None = None) -> None:
        """`after` names the last event that he was told; what was sent before is no news."""
        self.events: list[dict[str, Any]] = []
        self._headers = {"last-event-id": str(round(after["at"] * 1e6))} if after else {}
        self._host = host
        # What happened before, also the start of the daemon, is in the journal: it is not told to
        # somebody who comes now.
        assert host.request("GET", "/healthz").status_code == 200
        host.cursor()
        self._started = asyncio.Event()
        self._done = asyncio.run_coroutine_threadsafe(
            self._listen(host.key, until), host.loop.event_loop
        )
        host.loop.run(self._begun())

    async def _listen(self, key: str, until: str) -> None:
        try:
            async with (
                client(key, timeout_s=60) as http,
                http.stream("GET", "/events", headers=self._headers) as response,
            ):
                assert response.status_code == 200
                self._started.set()
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        self.events.append(json.loads(line.removeprefix("data: ")))
                        if self.events[-1]["event"] == until:
                            return
        finally:
            self._started.set()

    async def _begun(self) -> None:
        await self._started.wait()

    def told(self) -> list[dict[str, Any]]:
        """All events, once the last one has come."""
        self._done.result(120)
        return self.events

    def wait_for(self, **values: object) -> None:
        """Wait for an event with these values."""
        self._host.wait_until(
            lambda: any(values.items() <= event.items() for event in self.events), f"told {values}"
        )


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def journal_readers(host: Host) -> str:
    """The processes by which the daemon reads the journal."""
    return host.run("pgrep", "-u", "sparkd", "journalctl", check=False).stdout


def test_listener_is_told_of_a_load_and_of_the_stop_by_another_process(host: Host) -> None:
    host.configure(SETTINGS)
    host.stop_models()
    listening = Listening(host, "model-stopped")
    with host.held_load("fake-a"):
        # Of a model that is ready sooner than its last line is read, that line is not told.
        asked = Stream(host, "fake-a", tokens=1, pace_ms=0)
        listening.wait_for(event="load-progress", percent=100)
    asked.wait()
    assert asked.whole, asked.text
    events = listening.told()
    for event in events:
        assert event["model"] == "fake-a"
    started = names(events).index("model-starting")
    assert set(names(events)[:started]) == {"queue"}
    loads = [event for event in events if event["event"] == "load-progress"]
    assert {event["phase"] for event in loads} >= {"weights"}
    assert [e["percent"] for e in loads if "percent" in e] == [25, 50, 75, 100]
    assert "model-ready" in names(events)
    assert events[-1]["reason"] == "idle"

    # Whoever lost his connection is told what he missed, and nothing twice.
    again = Listening(host, "model-stopped", after=events[started])
    assert again.told() == events[started + 1 :]


def test_listener_that_comes_back_beside_one_that_stayed_is_told_what_he_missed(
    host: Host,
) -> None:
    stayed, left = Listening(host, "model-stopped"), Listening(host, "model-ready")
    host.run("sparkctl", "start", "fake-util")
    events = left.told()
    assert names(events)[0] != "model-ready"
    again = Listening(host, "model-ready", after=events[0])
    assert again.told() == events[1:]
    host.run("sparkctl", "stop", "fake-util")
    assert names(stayed.told())[: len(events)] == names(events)


def test_nothing_reads_the_journal_when_nobody_listens(host: Host) -> None:
    listening = Listening(host, "model-ready")
    host.wait_until(lambda: journal_readers(host) != "", "the journal is read for the listener")
    host.run("sparkctl", "start", "fake-util")
    assert "model-starting" in names(listening.told())
    host.wait_until(lambda: journal_readers(host) == "", "journalctl ends with its last listener")


def test_listener_that_never_reads_is_dropped(host: Host) -> None:
    async def ask(key: str) -> asyncio.StreamWriter:
        # A small buffer of his own, so that little fills all that there are on the way.
        reluctant = socket.socket()
        reluctant.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reluctant.connect(("127.0.0.1", 8009))
        _, writer = await asyncio.open_connection(sock=reluctant)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        head = f"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
        writer.write(head.encode())
        return writer

    writer = host.loop.run(ask(host.key))
    host.wait_until(lambda: journal_readers(host) != "", "the listener is served")
    host.run("python3", "-c", FLOOD, user="sparkd")
    host.wait_until(lambda: journal_readers(host) == "", "the listener is dropped")
    host.loop.event_loop.call_soon_threadsafe(writer.close)
    assert host.request("GET", "/healthz").status_code == 200


def test_listener_is_told_that_the_daemon_leaves_and_does_not_hold_it(host: Host) -> None:
    # Whoever holds it does so for that long.
    host.configure(f"{SETTINGS}drain_timeout: 100s\n")
    listening = Listening(host, "left")
    began_s = time.monotonic()
    host.run("systemctl", "stop", "sparkd.service")
    assert time.monotonic() - began_s < 80
    assert names(listening.told())[-1] == "left"


def test_model_that_is_killed_from_outside_is_told(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    listening = Listening(host, "model-ended")
    host.run("podman", "kill", "sparkd-model-fake-b", user="sparkd")
    event = listening.told()[-1]
    assert (event["model"], event["exit_code"]) == ("fake-b", 137)


def test_sparkctl_tells_events_without_the_daemon(host: Host) -> None:
    host.run("systemctl", "stop", "sparkd.service")
    cursor = host.cursor()
    host.run("sparkctl", "start", "fake-c")
    host.run("sparkctl", "stop", "fake-c")
    # This one waits for journald to have written it all down, which sparkctl does not.
    entries = host.journal("SPARKD_MODEL=fake-c", since=cursor)
    lines = host.run("sparkctl", "events", "--json", "-n", "50", "fake-c").stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert names(told)[-len(entries) :] == [entry["SPARKD_EVENT"] for entry in entries]
    assert names(told)[-1] == "model-stopped"
    assert "model-ready" in host.run("sparkctl", "events", "-n", "50", "fake-c").stdout
    assert host.system_unit_states()["sparkd.service"] == "inactive"
