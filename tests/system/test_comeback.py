# SPDX-License-Identifier: Apache-2.0
"""The return of a utility that left for an exclusive model, even if a process is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from .hosts import Host, answer_of
from .test_lifecycle import kill_daemon_for_good
from .test_scheduling import fault, resident

COMEBACKS = "/run/sparkd/comebacks"
DROP_IN = "/run/systemd/user/sparkd-comeback.service.d/test.conf"


@pytest.fixture
def left(host: Host) -> Host:
    """A host on which the utility has left for the exclusive model, which runs."""
    answer_of(host.chat("fake-util"))
    answer_of(host.chat("fake-excl"))
    assert resident(host) == {"fake-excl"}
    return host


def reload(host: Host, *, models: set[str]) -> None:
    """Have the daemon read the catalog anew, and wait until it has: it is only told to."""
    host.run("systemctl", "reload", "sparkd.service")

    def known() -> set[str]:
        return {model["id"] for model in host.request("GET", "/v1/models").json()["data"]}

    host.wait_until(lambda: models <= known(), f"it knows {models}")


def end_scope(host: Host, model: str) -> None:
    host.run("systemctl", "--user", "stop", f"sparkd-model-{model}.scope", user="sparkd")


def wait_for_comeback(host: Host) -> None:
    host.wait_until(lambda: resident(host) == {"fake-util"}, "the utility is back")
    host.wait_until(lambda: host.sh(f"ls {COMEBACKS}") == "", "and its comeback is done")


def test_utility_comes_back_after_the_exclusive_model_has_left(left: Host) -> None:
    end_scope(left, "fake-excl")
    wait_for_comeback(left)


def test_utility_comes_back_without_any_daemon(left: Host) -> None:
    kill_daemon_for_good(left)
    left.run("systemctl", "stop", "sparkd.socket")
    try:
        left.sh("podman kill sparkd-model-fake-excl", user="sparkd")
        wait_for_comeback(left)
        assert left.system_unit_states().get("sparkd.service", "inactive") == "inactive"
    finally:
        left.run("systemctl", "start", "sparkd.socket")


def test_utility_comes_back_when_the_exclusive_model_cannot_start(host: Host) -> None:
    answer_of(host.chat("fake-util"))
    broken = (
        "models: {excl-broken: {image: localhost/sparkd-fake-vllm:latest, weights: none, "
        "lifecycle: exclusive, gpu: '7'}}\n"
    )
    # With a file that describes another GPU, only Podman can tell that this one is missing.
    other = '{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0", '
    other += '"containerEdits": {"env": ["GPU=0"]}}]}\n'
    host.run("mkdir", "-p", "/etc/cdi")
    with (
        host.file("/etc/cdi/nvidia.json", other),
        host.file("/etc/sparkd/models.d/broken.yaml", broken),
    ):
        reload(host, models={"excl-broken"})
        assert host.chat("excl-broken").json()["error"]["code"] == "cdi_unresolvable"
        wait_for_comeback(host)
    host.run("systemctl", "stop", "sparkd.service")


def test_daemon_killed_between_the_two_models_brings_the_utility_back(host: Host) -> None:
    answer_of(host.chat("fake-util"))
    with fault(host, "swap-evicted"), pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        host.chat("fake-excl")
    assert host.request("GET", "/healthz", key=None).status_code == 200
    wait_for_comeback(host)


def test_comeback_that_is_killed_is_tried_again(left: Host) -> None:
    with drop_in(left, "Environment=SPARKD_FAULT=start-started"):
        end_scope(left, "fake-excl")
        left.wait_until(
            lambda: "signal" in left.sh(f"{OF_COMEBACKS} Result", user="sparkd"), "it was killed"
        )
    wait_for_comeback(left)


def test_exclusive_model_starts_again_while_a_comeback_is_at_work(left: Host) -> None:
    held = "ExecStartPre=/bin/sh -c 'until test -e /run/go-on; do sleep 0.1; done'"
    with drop_in(left, held):
        end_scope(left, "fake-excl")
        left.wait_until(lambda: state_of_pass(left) == "activating", "the pass is at work")
        assert answer_of(left.chat("fake-excl", "back already")) == "echo: back already"
        with left.file("/run/go-on", ""):
            left.wait_until(lambda: state_of_pass(left) == "inactive", "the pass has ended")
            assert resident(left) == {"fake-excl"}
            end_scope(left, "fake-excl")
            wait_for_comeback(left)


def test_utility_that_was_stopped_on_purpose_does_not_come_back(left: Host) -> None:
    left.run("sparkctl", "stop", "fake-util")
    assert left.sh(f"ls {COMEBACKS}") == ""


def test_comeback_takes_the_place_of_no_other_exclusive_model(left: Host) -> None:
    second = (
        "models: {excl-two: {image: localhost/sparkd-fake-vllm:latest, weights: none, "
        "lifecycle: exclusive, idle_timeout: 10m}}\n"
    )
    with left.file("/etc/sparkd/models.d/second.yaml", second):
        reload(left, models={"excl-two"})
        cursor = left.cursor()
        answer_of(left.chat("excl-two"))
        left.wait_until(
            lambda: left.journal("_SYSTEMD_USER_UNIT=sparkd-comeback.service", since=cursor) != [],
            "a comeback was tried",
        )
        # While it ends, systemd takes the next one for the same.
        left.wait_until(lambda: state_of_pass(left) == "inactive", "the pass has ended")
        assert resident(left) == {"excl-two"}
        end_scope(left, "excl-two")
        wait_for_comeback(left)
    left.run("systemctl", "stop", "sparkd.service")


OF_COMEBACKS = "systemctl --user show sparkd-comeback.service --value -p"


def state_of_pass(host: Host) -> str:
    return host.sh(f"{OF_COMEBACKS} ActiveState", user="sparkd")


@contextmanager
def drop_in(host: Host, line: str) -> Iterator[None]:
    """Passes with one more line in their unit, for as long as the block lasts."""
    reload = "systemctl --user daemon-reload"
    host.sh(f"mkdir -p {DROP_IN.rpartition('/')[0]}")
    host.run("tee", DROP_IN, input=f"[Service]\n{line}\n")
    host.sh(reload, user="sparkd")
    try:
        yield
    finally:
        host.run("rm", "-f", DROP_IN)
        host.sh(reload, user="sparkd")
