# SPDX-License-Identifier: Apache-2.0
"""The main job on Debian 12: systemd 252, Podman 4.3.1, Python 3.11."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import test_sandbox as walls
from .hosts import SETTINGS, Host, answer_of, held_stream
from .probes import in_container, in_gateway, models_running
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
    with old.lent("fake-a"):
        wait_for(old, "fake-a", SERVING)
    wait_for(old, "fake-a", AT_REST)
    assert answer_of(old.chat("fake-a", "again")) == "echo: again"


def test_killed_daemon_leaves_the_model_and_the_next_one_adopts_it(old: Host) -> None:
    stream = held_stream(old, "fake-a")
    with old.lent("fake-a"):
        before = container_id(old, "fake-a")
        old.run("kill", "-9", str(daemon_pid(old)))
        stream.wait()
        answer_of(old.chat("fake-a"))
        assert container_id(old, "fake-a") == before
    old.wait_until(lambda: not gpu_held(old), "the idle timer still stops it")


def test_killed_conmon_leaves_a_model_that_serves_and_can_be_stopped(old: Host) -> None:
    answer_of(old.chat("fake-a"))
    with old.lent("fake-a"):
        old.run("kill", "-9", str(pids(old, "fake-a")["conmon"]))
        assert answer_of(old.chat("fake-a", "still")) == "echo: still"
    old.wait_until(lambda: not gpu_held(old), "the idle timer stops it")
    assert answer_of(old.chat("fake-a", "anew")) == "echo: anew"


def test_swap_and_crash_at_start_are_as_on_debian_13(old: Host) -> None:
    answer_of(old.chat("fake-b"))
    answer_of(old.chat("fake-c"))
    assert table(old, "fake-b").scope == "-"
    crashed = old.chat("fake-crash")
    assert crashed.status_code == 502
    assert "code 3" in crashed.json()["error"]["message"]


def test_walls_around_a_model_and_the_gateway_stand_as_on_debian_13(old: Host) -> None:
    with models_running(old):
        container, gateway = in_container(old, "walls"), in_gateway(old)
    assert container["oom"] == 200
    for wall in (
        walls.test_container_has_no_network,
        walls.test_container_sees_neither_keys_nor_the_bus_nor_other_models,
        walls.test_container_can_write_neither_weights_nor_locks_nor_its_root,
        walls.test_container_sees_and_signals_no_process_outside,
        walls.test_container_has_no_capability_and_can_gain_none,
        walls.test_container_can_ask_nothing_of_the_kernel_that_is_for_root,
        walls.test_container_makes_no_namespace_and_no_call_that_is_not_for_it,
        walls.test_container_makes_no_call_of_another_architecture,
    ):
        wall(container)
    for wall in (
        walls.test_gateway_writes_its_state_and_nothing_else,
        walls.test_gateway_has_no_capability_and_can_gain_none,
        walls.test_gateway_touches_no_process_of_others_and_traces_none_of_its_own_user,
        walls.test_gateway_opens_no_connection_to_another_machine,
        walls.test_gateway_sees_no_device_but_the_harmless_ones,
    ):
        wall(gateway)
