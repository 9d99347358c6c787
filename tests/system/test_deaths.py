# SPDX-License-Identifier: Apache-2.0
"""Deaths of serving models: one report by the first observer, with exit code and last output."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from .hosts import SETTINGS, Host, answer_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

MODEL = "fake-b"
WORDS = "EngineDeadError: the core of the engine is gone"
SWITCH = f"/var/lib/sparkd/cache/{MODEL}/fake.json"
IMAGE = "localhost/sparkd-fake-path:latest"
RECIPE = """FROM localhost/sparkd-fake-vllm:latest
ENV PYTHONPATH=/opt/engine
RUN cp -r /opt/fake-vllm /opt/engine && rm -r /opt/fake-vllm
RUN printf '#!/bin/sh\\nexec python3 -m server "$@"\\n' >/usr/local/bin/vllm
"""
ENTRY = f"""models:
  path-sleeper: {{image: "{IMAGE}", weights: none, shm_size: 64MiB, evict: sleep,
    load_timeout: 20s, args: [--fake-load-seconds, 0.1]}}
"""


@pytest.fixture
def dying(host: Host) -> Iterator[Host]:
    """A host whose model can be told how to die."""
    host.configure(SETTINGS)
    yield host
    host.sh(f"rm -f {SWITCH}")
    host.stop_models()


def dies(host: Host, *, code: int, words: str = WORDS) -> None:
    """Have the engine end like this at the next request that asks for it."""
    host.run("tee", SWITCH, input=json.dumps({"exit_code": code, "crash_log": words}))


def broken(host: Host) -> str:
    """The stream of a request that kills its engine."""
    fake = {"crash_after_tokens": 3, "pace_ms": 20}
    return host.chat(MODEL, "a b c d e f g", stream=True, fake=fake).text


def deaths(host: Host, since: str) -> list[dict[str, Any]]:
    return host.journal("SPARKD_EVENT=model-ended", f"SPARKD_MODEL={MODEL}", since=since)


@pytest.mark.parametrize("code", [0, 1, 130, 143])
def test_death_in_the_middle_of_an_answer_is_told_whatever_its_code(dying: Host, code: int) -> None:
    answer_of(dying.chat(MODEL))
    cursor = dying.cursor()
    dies(dying, code=code)
    told = broken(dying)
    assert f"died while it served: code {code}" in told
    assert WORDS in told, "an admin sees the last words"
    dying.wait_until(lambda: deaths(dying, cursor) != [], "the death is in the journal")
    (entry,) = deaths(dying, cursor)
    assert entry["SPARKD_EXIT_CODE"] == str(code)
    assert "; its last words: " in entry["MESSAGE"]
    assert entry["MESSAGE"].endswith(WORDS)
    dying.sh(f"rm -f {SWITCH}")
    answer_of(dying.chat(MODEL))
    assert len(deaths(dying, cursor)) == 1, "once, although the next start saw it too"
    assert dying.journal("SPARKD_EVENT=model-failed", since=cursor) == []


def test_death_without_a_gateway_is_told_by_the_next_idle_check(dying: Host) -> None:
    answer_of(dying.chat(MODEL))
    dying.run("systemctl", "stop", "sparkd.socket", "sparkd.service")
    cursor = dying.cursor()
    dying.run("podman", "kill", f"sparkd-model-{MODEL}", user="sparkd")
    assert deaths(dying, cursor) == []
    idle = f"systemctl --user start sparkd-idle@{MODEL.replace('-', chr(92) * 2 + 'x2d')}.service"
    dying.sh(idle, user="sparkd")
    (entry,) = deaths(dying, cursor)
    assert "died while it served: code 137 (SIGKILL)" in entry["MESSAGE"]
    assert "died while it served" in dying.run("sparkctl", "events", "-n", "50", MODEL).stdout
    dying.run("systemctl", "start", "sparkd.socket")
    models = {m["id"]: m for m in dying.request("GET", "/status").json()["models"]}
    assert models[MODEL]["state"] == "failed"
    assert "code 137 (SIGKILL)" in models[MODEL]["failure"]
    answer_of(dying.chat(MODEL))


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("systemctl --user stop sparkd-model-fake-b.scope", "systemd was asked to stop its scope"),
        ("podman rm -f sparkd-model-fake-b", "its container was removed by another program|code"),
    ],
)
def test_end_by_hand_is_told_as_such(dying: Host, command: str, cause: str) -> None:
    answer_of(dying.chat(MODEL))
    cursor = dying.cursor()
    scope = [n for n in dying.user_unit_states("sparkd-model*") if n.endswith(".scope")]
    dying.sh(command.replace("sparkd-model-fake-b.scope", f"'{scope[0]}'"), user="sparkd")
    dying.wait_until(lambda: deaths(dying, cursor) != [], "the death is in the journal")
    # Podman 4.3 lets the process end, and its code be read, before it removes the container.
    assert re.search(f"died while it served: ({cause})", deaths(dying, cursor)[0]["MESSAGE"])


def test_stop_that_sparkd_was_asked_for_is_no_death(dying: Host) -> None:
    answer_of(dying.chat(MODEL))
    cursor = dying.cursor()
    dying.run("sparkctl", "stop", MODEL)
    assert deaths(dying, cursor) == []
    assert dying.containers() == []


def test_flood_of_lines_neither_hides_the_reason_nor_the_next_models_lines(dying: Host) -> None:
    answer_of(dying.chat(MODEL))
    cursor = dying.cursor()
    flood = "".join(f"line {n} of a flood\n" for n in range(60_000))
    dies(dying, code=1, words=f"{flood}\x1b[31m10%\r{WORDS}\x1b[0m")
    told = broken(dying)
    assert WORDS in told
    assert "\\u001b" not in told
    assert "dropped" not in told
    dying.wait_until(lambda: deaths(dying, cursor) != [], "the death is in the journal")
    assert len(deaths(dying, cursor)[0]["MESSAGE"]) < 2500
    shown = dying.run("sparkctl", "logs", "-n", "3", MODEL).stdout
    assert WORDS in shown
    assert "blob data" not in shown
    assert "\x1b" not in shown
    answer_of(dying.chat("fake-c"))
    assert dying.run("sparkctl", "logs", "-n", "3", "fake-c").stdout.strip() != ""


def test_sleeper_keeps_the_search_path_of_its_image(host: Host) -> None:
    host.sh("mkdir -p /var/empty")
    recipe = "/tmp/Containerfile.path"
    with host.file(recipe, RECIPE):
        host.sh(f"cd / && podman build -q -t {IMAGE} -f {recipe} /var/empty", user="sparkd")
    with host.file("/etc/sparkd/models.d/test-path.yaml", ENTRY):
        host.run("systemctl", "stop", "sparkd.service")
        answer_of(host.chat("path-sleeper"))
        host.run("sparkctl", "stop", "path-sleeper")
    host.sh(f"cd / && podman rmi {IMAGE}", user="sparkd")
