# SPDX-License-Identifier: Apache-2.0
"""Jumps of the wall clock, as when a host sets its time: no decision may depend on it.

A host shares its clock with the machine, so the clock is turned for sparkd alone: libfaketime lies
to its processes about the wall clock. Files, Podman and systemd keep the time there was before,
as they would have noted it before a jump.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.core.telemetry.events import EventKind

from .hosts import HOST, Host, answer_of
from .test_lifecycle import container_id, gpu_held

LIBRARY = "/usr/local/lib/libfaketime.so.1"
CLOCK = "/etc/sparkd-test-clock"
UNITS = ("system/sparkd.service", "user/sparkd-idle@.service")
DROP_IN = (
    f"[Service]\nEnvironment=LD_PRELOAD={LIBRARY} FAKETIME_TIMESTAMP_FILE={CLOCK} "
    "FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\n"
)
CATALOG = "/etc/sparkd/models.d/clock.yaml"
FAKE = "image: localhost/sparkd-fake-vllm:latest, weights: none, shm_size: 64MiB"
IDLE_S = 10.0

pytestmark = pytest.mark.long


@pytest.fixture
def clocked(host: Host) -> Iterator[Host]:
    """A host whose sparkd believes what `jump` says."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    command = [str(HOST), "cp", "--name", host.name, str(library), LIBRARY]
    subprocess.run(command, check=True)
    drop_ins = [f"/etc/systemd/{unit}.d/test-clock.conf" for unit in UNITS]
    for path in drop_ins:
        host.sh(f"mkdir -p $(dirname {path})")
        host.run("tee", path, input=DROP_IN)
    jump(host, "+0")
    reload(host)
    yield host
    host.run("rm", *drop_ins, LIBRARY, CLOCK)
    reload(host)


def reload(host: Host) -> None:
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "--user", "daemon-reload", user="sparkd")
    host.run("systemctl", "stop", "sparkd.service")


def jump(host: Host, offset: str) -> None:
    host.run("tee", CLOCK, input=f"{offset}\n")


def believed_s(host: Host) -> float:
    """How far the gateway's wall clock is from the host's."""
    told = host.request("GET", "/status").json()["now"]
    return float(told) - float(host.run("date", "+%s.%N").stdout)


@pytest.mark.parametrize("offset", ["-3h", "+3h"])
def test_idle_model_is_stopped_after_its_timeout_and_not_before_whatever_the_clock_does(
    clocked: Host, offset: str
) -> None:
    entry = f"  soon: {{{FAKE}, idle_timeout: {IDLE_S:g}s}}"
    with clocked.file(CATALOG, f"models:\n{entry}\n"):
        answer_of(clocked.chat("soon"))
        began_s = used_s = time.monotonic()
        while used_s < began_s + 0.6 * IDLE_S:
            answer_of(clocked.chat("soon"))
            used_s = time.monotonic()
        # The timer that the load set elapses after this, and finds a model that was used since.
        jump(clocked, offset)
        clocked.wait_until(lambda: not gpu_held(clocked), "it is stopped once idle")
        assert time.monotonic() - used_s > IDLE_S - 0.5
        assert abs(abs(believed_s(clocked)) - 3 * 3600) < 60


@pytest.mark.parametrize("offset", ["-3h", "+3h"])
def test_model_in_use_across_a_jump_is_neither_stopped_nor_kept(clocked: Host, offset: str) -> None:
    entry = f"  soon: {{{FAKE}, idle_timeout: {IDLE_S:g}s}}"
    with clocked.file(CATALOG, f"models:\n{entry}\n"):
        answer_of(clocked.chat("soon"))
        first = container_id(clocked, "soon")
        jump(clocked, offset)
        began_s = time.monotonic()
        while time.monotonic() < began_s + 1.2 * IDLE_S:
            answer_of(clocked.chat("soon"))
        assert container_id(clocked, "soon") == first
        clocked.wait_until(lambda: not gpu_held(clocked), "it is stopped once idle")


@pytest.mark.parametrize("offset", ["-3h", "+3h"])
def test_next_gateway_finds_a_ready_model_and_a_failure_keeps_its_pause(
    clocked: Host, offset: str
) -> None:
    answer_of(clocked.chat("fake-util"))
    first = container_id(clocked, "fake-util")
    assert clocked.chat("fake-crash").status_code == 502
    jump(clocked, offset)
    clocked.run("systemctl", "restart", "sparkd.service")
    cursor = clocked.cursor()
    answer_of(clocked.chat("fake-util"))
    assert container_id(clocked, "fake-util") == first
    found = clocked.journal(f"MESSAGE_ID={EventKind.MODEL_ADOPTED.message_id}", since=cursor)
    assert [int(entry["SPARKD_DURATION_MS"]) < 600_000 for entry in found] == [True]
    refused = clocked.chat("fake-crash").json()["error"]["message"]
    pause = re.search(r"tried again in (\d+) s", refused)
    assert pause, refused
    assert int(pause[1]) <= 60
