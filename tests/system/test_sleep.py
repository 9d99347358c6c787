# SPDX-License-Identifier: Apache-2.0
"""Models that sleep instead of being stopped (`evict: sleep`): who may use the GPU, who answers
what, and what happens when sleeping or waking goes wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx
import pytest

from .hosts import Host, Stream, answer_of
from .leftovers import wait_for_nothing
from .test_scheduling import fault, resident

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

NAP_POINTS = ("nap-noted", "nap-begun", "nap-ended")
"""The steps of a sleep and of a wake at which a process of sparkd can be made to die."""
_ENTRY = (
    "image: localhost/sparkd-fake-vllm:latest, weights: none, shm_size: 64MiB, evict: sleep, "
    "load_timeout: 60s, idle_timeout: 5m"
)
ENTRIES = f"""models:
  sleepy-a: {{{_ENTRY}, args: [--fake-load-seconds, 0.3]}}
  sleepy-b: {{{_ENTRY}, args: [--fake-load-seconds, 0.3]}}
"""
GPU_LOCK = "/run/sparkd/gpu.lock"


@pytest.fixture
def sleepy(host: Host) -> Iterator[Host]:
    """A host with two models that sleep for each other."""
    with host.file("/etc/sparkd/models.d/test-sleep.yaml", ENTRIES):
        host.run("systemctl", "stop", "sparkd.service")
        yield host
        for model in ("sleepy-a", "sleepy-b"):
            host.sh(f"rm -f /var/lib/sparkd/cache/{model}/fake.json")
        host.stop_models()


def ask(host: Host, model: str, text: str = "hello") -> None:
    assert answer_of(host.chat(model, text)) == f"echo: {text}"


def goes_wrong(host: Host, model: str, how: str) -> None:
    """Have the engine of a model do that from now on."""
    path = f"/var/lib/sparkd/cache/{model}/fake.json"
    host.run("tee", path, input=json.dumps({"nap": how}))


def states(host: Host) -> dict[str, str]:
    """Of both, once those who were answered have let go of them."""
    host.wait_for_requests()
    status = host.request("GET", "/status").json()
    return {model["id"]: model["state"] for model in status["models"] if "sleepy" in model["id"]}


def pid(host: Host, model: str) -> int:
    found = host.engine_state(model)["started_at"]
    assert isinstance(found, float)
    return round(found * 1e6)


def stops(host: Host, since: str) -> list[tuple[str, str]]:
    found = host.journal("SPARKD_EVENT=model-stopped", since=since)
    return [(entry["SPARKD_MODEL"], entry["SPARKD_REASON"]) for entry in found]


def test_models_sleep_for_each_other_and_are_woken_instead_of_started(sleepy: Host) -> None:
    cursor = sleepy.cursor()
    ask(sleepy, "sleepy-a")
    first = pid(sleepy, "sleepy-a")
    for number in range(2):
        ask(sleepy, "sleepy-b", f"b{number}")
        assert states(sleepy) == {"sleepy-a": "sleeping", "sleepy-b": "ready"}
        ask(sleepy, "sleepy-a", f"a{number}")
        assert states(sleepy) == {"sleepy-a": "ready", "sleepy-b": "sleeping"}
    assert pid(sleepy, "sleepy-a") == first
    assert sleepy.engine_state("sleepy-a")["naps"] == 2
    slept = sleepy.journal("SPARKD_EVENT=model-asleep", since=cursor)
    assert [(e["SPARKD_MODEL"], e["SPARKD_WANTED"]) for e in slept][:2] == [
        ("sleepy-a", "sleepy-b"),
        ("sleepy-b", "sleepy-a"),
    ]
    assert len(sleepy.journal("SPARKD_EVENT=model-awake", since=cursor)) == 3
    assert len(sleepy.journal("SPARKD_EVENT=model-starting", since=cursor)) == 2
    assert stops(sleepy, cursor) == []


def test_sleeper_leaves_the_gpu_to_other_programs_and_is_not_woken_against_them(
    sleepy: Host,
) -> None:
    ask(sleepy, "sleepy-a")
    ask(sleepy, "sleepy-b")
    assert sleepy.run("flock", "-n", GPU_LOCK, "true", check=False).returncode == 1
    sleepy.run("sparkctl", "stop", "sleepy-b")
    unit = "foreign-gpu"
    # It says itself when it has the lock: who tries whether he gets it takes it from others.
    hold = ("flock", GPU_LOCK, "sh", "-c", "systemd-notify --ready; exec sleep infinity")
    notify = ("--property=Type=notify", "--property=NotifyAccess=all")
    sleepy.run("systemd-run", "--quiet", f"--unit={unit}", "--collect", *notify, *hold)
    try:
        refused = sleepy.chat("sleepy-a")
        assert refused.json()["error"]["code"] == "gpu_held"
        assert states(sleepy)["sleepy-a"] == "sleeping"
    finally:
        sleepy.run("systemctl", "stop", unit)
    before = sleepy.engine_state("sleepy-a")["started_at"]
    ask(sleepy, "sleepy-a")
    assert sleepy.engine_state("sleepy-a")["started_at"] == before


@pytest.mark.parametrize("how", ["forgets", "wake_fails"])
def test_model_that_is_not_what_it_was_after_waking_is_started_anew(sleepy: Host, how: str) -> None:
    ask(sleepy, "sleepy-a")
    first = pid(sleepy, "sleepy-a")
    ask(sleepy, "sleepy-b")
    goes_wrong(sleepy, "sleepy-a", how)
    cursor = sleepy.cursor()
    ask(sleepy, "sleepy-a", "still right")
    assert pid(sleepy, "sleepy-a") != first
    assert ("sleepy-a", "not-woken") in stops(sleepy, cursor)


def test_model_that_does_not_go_to_sleep_is_stopped(sleepy: Host) -> None:
    ask(sleepy, "sleepy-a")
    goes_wrong(sleepy, "sleepy-a", "sleep_fails")
    cursor = sleepy.cursor()
    ask(sleepy, "sleepy-b")
    assert stops(sleepy, cursor) == [("sleepy-a", "evicted")]
    assert states(sleepy) == {"sleepy-a": "stopped", "sleepy-b": "ready"}


def test_wake_that_nobody_waits_for_any_more_is_given_up(sleepy: Host) -> None:
    ask(sleepy, "sleepy-a")
    ask(sleepy, "sleepy-b")
    goes_wrong(sleepy, "sleepy-a", "wake_hangs")
    stream = Stream(sleepy, "sleepy-a", tokens=1, pace_ms=0)
    # An engine takes the locks, and then wakes.
    sleepy.wait_until(lambda: sleepy.gpu_holders() == ["sleepy-a"], "it is being woken")
    stream.leave()
    sleepy.wait_until(lambda: resident(sleepy) == {"sleepy-b"}, "it was stopped")
    ask(sleepy, "sleepy-a")


def test_wake_that_the_host_spoils_is_told_with_its_reason_and_tried_anew(sleepy: Host) -> None:
    ask(sleepy, "sleepy-a")
    ask(sleepy, "sleepy-b")
    note = "/run/sparkd/asleep/sleepy-a"
    sleepy.run("mount", "--bind", note, note)
    try:
        cursor = sleepy.cursor()
        error = sleepy.chat("sleepy-a").json()["error"]
        assert (error["code"], error["hint"]) == ("host_error", f"ls -l {note}")
        (entry,) = sleepy.journal("SPARKD_REASON=not-woken", since=cursor)
        assert (
            f"instead of woken: cannot remove {note}: Device or resource busy" in entry["MESSAGE"]
        )
        ask(sleepy, "sleepy-a", "started anew")
    finally:
        sleepy.run("umount", "-l", note)


def test_exclusive_model_has_no_sleeper_beside_it(sleepy: Host) -> None:
    ask(sleepy, "sleepy-a")
    ask(sleepy, "sleepy-b")
    answer_of(sleepy.chat("fake-excl"))
    assert resident(sleepy) == {"fake-excl"}


def test_sleeper_that_nobody_asks_for_is_stopped_at_its_idle_time(sleepy: Host) -> None:
    quick = ENTRIES.replace("idle_timeout: 5m", "idle_timeout: 3s")
    with sleepy.file("/etc/sparkd/models.d/test-sleep.yaml", quick):
        sleepy.run("systemctl", "stop", "sparkd.service")
        ask(sleepy, "sleepy-a")
        ask(sleepy, "sleepy-b")
        wait_for_nothing(sleepy)


@pytest.mark.parametrize("point", NAP_POINTS)
def test_gateway_killed_at_any_step_of_sleep_and_wake_loses_nothing(
    sleepy: Host, point: str
) -> None:
    ask(sleepy, "sleepy-a")
    ask(sleepy, "sleepy-b")
    with fault(sleepy, point), pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        sleepy.chat("sleepy-a")
    ask(sleepy, "sleepy-a", "after")
    ask(sleepy, "sleepy-b", "after")
    for model in ("sleepy-a", "sleepy-b"):
        sleepy.run("sparkctl", "stop", model)
    wait_for_nothing(sleepy)
