# SPDX-License-Identifier: Apache-2.0
"""Loads whose clients have left go on, without a second load and in no other model's way."""

from __future__ import annotations

import time
from contextlib import suppress

import httpx
import pytest

from .hosts import SETTINGS, Host, Stream, answer_of, chat_body, client
from .leftovers import wait_for_nothing
from .test_scheduling import fault, resident, starts

ABANDONED_POINTS = ("abandoned-begun", "tended-settled")
PATIENCE_S = 1.0


def state(host: Host, model: str) -> str:
    return str(host.request("GET", f"/v1/models/{model}").json()["state"])


def leave_load(host: Host, model: str) -> None:
    """Ask for a model, and leave once it loads."""
    stream = Stream(host, model, tokens=1, pace_ms=0)
    host.wait_until(lambda: resident(host) == {model}, "it loads")
    stream.leave()
    host.wait_until(lambda: host.request("GET", "/status").json()["queue"] == [], "it left")


def impatient(host: Host, path: str, body: dict[str, object] | None = None) -> bool:
    """Whether there was an answer within a second."""

    async def ask() -> bool:
        async with client(host.key, timeout_s=PATIENCE_S) as http:
            response = await http.post(path, json=body)
            return response.status_code == 200

    with suppress(httpx.TimeoutException):
        return host.loop.run(ask())
    return False


def test_load_without_waiters_becomes_ready_and_stops_by_its_idle_timeout(host: Host) -> None:
    cursor = host.cursor()
    with host.held_load("fake-slow"):
        leave_load(host, "fake-slow")
        time.sleep(2)
        assert state(host, "fake-slow") == "starting"
    host.wait_until(lambda: state(host, "fake-slow") == "ready", "it is ready")
    host.wait_until(
        lambda: host.journal("SPARKD_EVENT=model-ready", since=cursor) != [], "it is completed"
    )
    assert starts(host, cursor) == ["fake-slow"]
    wait_for_nothing(host)
    stopped = host.journal("SPARKD_EVENT=model-stopped", since=cursor)
    assert [entry["SPARKD_REASON"] for entry in stopped] == ["idle"]


def test_client_that_comes_back_joins_the_load(host: Host) -> None:
    cursor = host.cursor()
    with host.held_load("fake-b"):
        leave_load(host, "fake-b")
        stream = Stream(host, "fake-b", tokens=2, pace_ms=1)
        host.wait_until(lambda: host.request("GET", "/status").json()["queue"] != [], "it joined")
    stream.wait()
    assert stream.whole, stream.text
    assert starts(host, cursor) == ["fake-b"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/models/fake-agent/load"])
def test_client_with_less_patience_than_a_load_succeeds_with_one_load(
    host: Host, path: str
) -> None:
    cursor = host.cursor()
    body = chat_body("fake-agent") if path.startswith("/v1") else None
    tries = [impatient(host, path, body)]
    while not tries[-1] and len(tries) < 20:
        tries.append(impatient(host, path, body))
    assert tries[-1]
    assert len(tries) > 1, "the load was too short to show anything"
    assert starts(host, cursor) == ["fake-agent"]


def test_impatient_client_does_not_lose_the_place_that_was_made_for_it(host: Host) -> None:
    """fake-stubborn takes its two seconds of grace to stop, longer than the client waits."""
    answer_of(host.chat("fake-stubborn"))
    cursor = host.cursor()
    assert not impatient(host, "/v1/chat/completions", chat_body("fake-b"))
    host.wait_until(lambda: resident(host) == {"fake-b"}, "fake-b loads all the same")
    host.wait_until(lambda: state(host, "fake-b") == "ready", "it is ready")
    assert starts(host, cursor) == ["fake-b"]


def test_load_without_waiters_makes_way_at_once(host: Host) -> None:
    with host.held_load("fake-b"):
        leave_load(host, "fake-b")
        assert answer_of(host.chat("fake-c")) == "echo: hello"
    assert resident(host) == {"fake-c"}


@pytest.mark.parametrize("by", ["unload", "sparkctl"])
def test_admin_stops_a_load_without_waiters_at_once(host: Host, by: str) -> None:
    with host.held_load("fake-b"):
        leave_load(host, "fake-b")
        if by == "unload":
            assert host.request("POST", "/models/fake-b/unload").json()["ran"] is True
        else:
            host.run("sparkctl", "stop", "fake-b")
        assert resident(host) == set()
        assert host.containers() == []


def test_load_that_fails_without_waiters_is_remembered(host: Host) -> None:
    leave_load(host, "fake-hang")
    host.wait_until(lambda: state(host, "fake-hang") == "backing-off", "its failure is known")
    assert host.chat("fake-hang").json()["error"]["code"] == "start_timed_out"


def test_gateway_that_exits_leaves_the_load_and_the_next_one_completes_it(host: Host) -> None:
    host.configure(SETTINGS + "drain_timeout: 1s\n")
    cursor = host.cursor()
    with host.held_load("fake-b"):
        stream = Stream(host, "fake-b", tokens=1, pace_ms=0)
        host.wait_until(lambda: resident(host) == {"fake-b"}, "it loads")
        host.run("systemctl", "restart", "sparkd.service")
        assert resident(host) == {"fake-b"}
        stream.leave()
    host.wait_until(lambda: state(host, "fake-b") == "ready", "it is ready")
    host.wait_until(
        lambda: host.journal("SPARKD_EVENT=model-ready", since=cursor) != [], "it is completed"
    )
    assert answer_of(host.chat("fake-b")) == "echo: hello"
    assert starts(host, cursor) == ["fake-b"]


def test_gateway_killed_when_a_client_has_left_in_the_middle_of_a_swap(host: Host) -> None:
    with fault(host, "abandoned-begun"):
        answer_of(host.chat("fake-stubborn"))
        with suppress(httpx.HTTPError):
            impatient(host, "/v1/chat/completions", chat_body("fake-b"))
        host.wait_until(lambda: "fake-b" in resident(host), "it was begun")
        assert answer_of(host.chat("fake-b", "after")) == "echo: after"
    host.run("sparkctl", "stop", "fake-b")
    wait_for_nothing(host)


def test_gateway_killed_before_it_completes_a_load_without_waiters(host: Host) -> None:
    with fault(host, "tended-settled"):
        with host.held_load("fake-b"):
            leave_load(host, "fake-b")
            pid = host.pid
        host.wait_until(lambda: host.run("ls", f"/proc/{pid}", check=False).stdout == "", "it dies")
    assert answer_of(host.chat("fake-b", "after")) == "echo: after"
    host.run("sparkctl", "stop", "fake-b")
    wait_for_nothing(host)
