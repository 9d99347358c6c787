# SPDX-License-Identifier: Apache-2.0
"""The main job on Debian 12: systemd 252, Podman 4.3.1, Python 3.11."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .hosts import SETTINGS, Host, Stream, answer_of
from .test_lifecycle import (
    AT_REST,
    SERVING,
    container_id,
    daemon_pid,
    gpu_held,
    pids,
    table,
    wait_for,
)


@pytest.fixture
def old(bookworm: Host) -> Iterator[Host]:
    bookworm.stop_models()
    bookworm.configure(SETTINGS + "idle_exit: 3s\n")
    bookworm.run("systemctl", "stop", "sparkd.service")
    yield bookworm
    bookworm.stop_models()


def test_versions_are_those_of_debian_12(old: Host) -> None:
    assert "4.3.1" in old.run("podman", "--version").stdout
    assert "systemd 252" in old.run("systemctl", "--version").stdout


def test_whole_life_from_first_request_to_nothing_running(old: Host) -> None:
    assert answer_of(old.chat("fake-a", "one two")) == "echo: one two"
    assert table(old, "fake-a") == SERVING
    wait_for(old, "fake-a", AT_REST, timeout_s=25)
    assert answer_of(old.chat("fake-a", "again")) == "echo: again"


def test_killed_daemon_leaves_the_model_and_the_next_one_adopts_it(old: Host) -> None:
    stream = Stream(old, "fake-a", tokens=50, pace_ms=100)
    stream.wait_first()
    before = container_id(old, "fake-a")
    old.run("kill", "-9", str(daemon_pid(old)))
    stream.wait()
    answer_of(old.chat("fake-a"))
    assert container_id(old, "fake-a") == before
    old.wait_until(lambda: not gpu_held(old), "the idle timer still stops it", timeout_s=20)


def test_killed_conmon_leaves_a_model_that_serves_and_can_be_stopped(old: Host) -> None:
    answer_of(old.chat("fake-a"))
    old.run("kill", "-9", str(pids(old, "fake-a")["conmon"]))
    assert answer_of(old.chat("fake-a", "still")) == "echo: still"
    old.wait_until(lambda: not gpu_held(old), "the idle timer stops it", timeout_s=20)
    assert answer_of(old.chat("fake-a", "anew")) == "echo: anew"


def test_swap_and_crash_at_start_are_as_on_debian_13(old: Host) -> None:
    answer_of(old.chat("fake-b"))
    answer_of(old.chat("fake-c"))
    assert table(old, "fake-b").scope == "-"
    crashed = old.chat("fake-crash")
    assert crashed.status_code == 502
    assert "code 3" in crashed.json()["error"]["message"]
