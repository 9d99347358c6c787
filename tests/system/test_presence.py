# SPDX-License-Identifier: Apache-2.0
"""A model that is not on the host is refused before it costs any other model its place."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .hosts import Host, answer_of, held_stream
from .test_scheduling import resident, starts

MISSING = "/var/lib/sparkd/models/nothing-here"
IMAGE = "localhost/sparkd-fake-vllm:latest"
CATALOG = f"""\
models:
  no-weights: {{image: {IMAGE}, weights: {{path: {MISSING}}}}}
  no-image: {{image: localhost/sparkd-nothing:latest, weights: none}}
  nothing: {{image: registry.invalid/x:1, weights: {{path: {MISSING}, repo: ORG/X}}}}
"""
CODES = {
    "no-weights": "weights_missing",
    "no-image": "image_missing",
    "nothing": "model_not_present",
}


@pytest.fixture
def lacking(host: Host) -> Iterator[Host]:
    with host.file("/etc/sparkd/models.d/lacking.yaml", CATALOG):
        host.run("systemctl", "restart", "sparkd.service")
        yield host
    host.run("systemctl", "restart", "sparkd.service")


@pytest.mark.parametrize("model", CODES)
def test_missing_model_evicts_nothing(lacking: Host, model: str) -> None:
    answer_of(lacking.chat("fake-b"))
    cursor = lacking.cursor()
    busy = held_stream(lacking, "fake-b")
    response = lacking.chat(model)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == CODES[model]
    busy.go_on()
    busy.wait()
    assert busy.whole
    assert resident(lacking) == {"fake-b"}
    assert lacking.journal("SPARKD_EVENT=model-stopped", since=cursor) == []
    assert starts(lacking, cursor) == []


def test_all_that_is_missing_is_said_at_once(lacking: Host) -> None:
    error = lacking.chat("nothing").json()["error"]
    assert [one["code"] for one in error["missing"]] == ["weights_missing", "image_missing"]
    for word in (MISSING, "registry.invalid/x:1", "sudo sparkctl pull nothing", "podman pull"):
        assert word in error["message"]
    started = lacking.run("sparkctl", "start", "nothing", check=False)
    assert started.returncode == 7
    assert "weights are missing" in started.stderr
    assert "registry.invalid/x:1 is missing" in started.stderr


def test_lists_tell_what_is_here(lacking: Host) -> None:
    here = {model["id"] for model in lacking.request("GET", "/v1/models").json()["data"]}
    assert "fake-b" in here
    assert not here & set(CODES)
    everything = lacking.request("GET", "/v1/models?all=1").json()["data"]
    present = {model["id"]: model["present"] for model in everything}
    assert set(CODES) <= set(present)
    assert {name for name, there in present.items() if there} == here
    assert lacking.request("GET", "/v1/models/no-image").json()["present"] is False
    states = {one["id"]: one for one in lacking.request("GET", "/status").json()["models"]}
    assert states["no-image"]["missing"][0]["what"] == "image"
    told = json.loads(lacking.run("sparkctl", "models", "--json").stdout)
    local = {one["id"]: one["local"] for one in told}
    assert (local["fake-b"], local["no-weights"], local["nothing"]) == ("yes", "partial", "no")


def test_integrate_offers_only_what_is_here(lacking: Host) -> None:
    told = json.loads(lacking.run("sparkctl", "integrate", "env", "--json").stdout)
    assert set(told["models"]) <= {
        model["id"] for model in lacking.request("GET", "/v1/models").json()["data"]
    }


def test_running_model_is_not_checked(host: Host) -> None:
    weights = "/var/lib/sparkd/models/here"
    entry = f"models:\n  here: {{image: {IMAGE}, weights: {{path: {weights}}}}}\n"
    host.run("mkdir", "-p", weights, user="sparkd")
    host.run("touch", f"{weights}/config.json", user="sparkd")
    try:
        with host.file("/etc/sparkd/models.d/here.yaml", entry):
            host.run("systemctl", "restart", "sparkd.service")
            answer_of(host.chat("here"))
            host.run("rm", f"{weights}/config.json")
            # A gateway that knows nothing of the model has to look for it.
            host.run("systemctl", "restart", "sparkd.service")
            answer_of(host.chat("here"))
            host.stop_models()
            assert host.chat("here").json()["error"]["code"] == "weights_missing"
            host.run("touch", f"{weights}/config.json", user="sparkd")
            answer_of(host.chat("here"))
            host.stop_models()
    finally:
        host.run("rm", "-rf", weights)
    host.run("systemctl", "restart", "sparkd.service")


def test_failed_foreign_scope_of_a_models_name_is_reset(host: Host) -> None:
    scope = "sparkd-model-fake-b.scope"
    host.sh(
        f"systemd-run --user --scope --unit={scope} --property=CollectMode=inactive "
        "--property=RuntimeMaxSec=1 --property=TimeoutStopSec=1 sleep 60 || true",
        user="sparkd",
    )
    host.wait_until(lambda: host.user_unit_states().get(scope) == "failed", "it failed")
    doctor = host.run("sparkctl", "doctor", check=False).stdout
    assert "a failed unit of fake-b" in doctor
    cursor = host.cursor()
    assert answer_of(host.chat("fake-b")) == "echo: hello"
    said = [str(entry["MESSAGE"]) for entry in host.journal("_COMM=sparkd", since=cursor)]
    said += [str(entry["MESSAGE"]) for entry in host.journal("SYSLOG_IDENTIFIER=sparkd")]
    assert any(f"unit {scope} had failed" in line for line in said)


def test_stop_of_an_unknown_model_says_only_that(host: Host) -> None:
    stopped = host.run("sparkctl", "stop", "nosuch", check=False)
    assert stopped.returncode == 3
    assert "stopping" not in stopped.stderr
