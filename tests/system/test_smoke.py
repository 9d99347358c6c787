# SPDX-License-Identifier: Apache-2.0
"""`sparkctl smoke` and `sparkctl soak` on a booted host: what works passes, what does not fails, so
does what is named and not there, and what nobody named is skipped with its reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from .hosts import SETTINGS, Host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

OTHERS = "/etc/sparkd/models.d/fake.yaml"
"""All other models whose image is here; an empty file stands for none."""
FAKE = "image: localhost/sparkd-fake-vllm:latest, weights: none, shm_size: 64MiB"
MODELS = f"""\
models:
  smoke-narrow: {{{FAKE}, max_model_len: 8192, args: [--fake-context-tokens, 5000]}}
  smoke-a: {{{FAKE}, vision: true, args: [--fake-load-seconds, 0.2, --fake-pace-ms, 5]}}
  smoke-b: {{{FAKE}, args: [--fake-load-seconds, 0.2]}}
  smoke-bad: {{{FAKE}, args: [--fake-load-seconds, 0.2, --fake-status, 500]}}
  smoke-imageless: {{image: localhost/no-such:1, weights: none}}
"""


@pytest.fixture
def smoking(host: Host) -> Iterator[Host]:
    with host.file("/etc/sparkd/models.d/test-smoke.yaml", MODELS):
        host.run("systemctl", "stop", "sparkd.service")
        yield host
        host.stop_models()


def rows(host: Host, *words: str, code: int) -> dict[str, tuple[str | None, str, str]]:
    done = host.run("sparkctl", "smoke", "--json", *words, check=False)
    assert done.returncode == code, done.stderr
    return {
        one["row"]: (one["model"], one["result"], one["why"]) for one in json.loads(done.stdout)
    }


def test_each_row_passes_or_fails_with_its_reason(smoking: Host) -> None:
    given = ("--default", "smoke-a", "--vision", "smoke-bad", "--coder", "smoke-b")
    found = rows(smoking, "--utility", "smoke-imageless", *given, code=1)
    assert found["utility"] == (
        *("smoke-imageless", "failed"),
        "model 'smoke-imageless' cannot start: its image localhost/no-such:1 is missing",
    )
    assert found["default"] == ("smoke-a", "passed", "answers")
    assert found["vision"][:2] == ("smoke-bad", "failed")
    assert found["coder"][:2] == ("smoke-b", "passed")
    assert found["busy"] == ("smoke-b", "passed", "waited for smoke-a, then answers")


def test_busy_row_passes_where_the_second_model_is_refused(smoking: Host) -> None:
    smoking.configure(f"{SETTINGS}busy: reject\n")
    given = ("--default", "smoke-a", "--vision", "smoke-a", "--coder", "smoke-b")
    found = rows(smoking, *given, code=0)
    model, result, why = found["busy"]
    assert (model, result) == ("smoke-b", "passed")
    assert why.startswith("refused while smoke-a answers, retry-after ")


def test_model_that_is_named_and_cannot_run_fails_whatever_else_passes(smoking: Host) -> None:
    with smoking.file(OTHERS, ""):
        found = rows(smoking, "--vision", "smoke-imageless", "--default", "smoke-b", code=1)
    assert (found["vision"][1], found["default"][1]) == ("failed", "passed")


def test_run_in_which_nothing_could_be_tried_has_not_passed(host: Host) -> None:
    with host.file(OTHERS, ""):
        found = rows(host, code=1)
    assert {result for _, result, _ in found.values()} == {"skipped"}
    assert all(why for _, _, why in found.values())


def test_soak_finds_where_a_model_stops_and_keeps_it(smoking: Host) -> None:
    done = smoking.run("sparkctl", "soak", "--json", "smoke-narrow", check=False)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["highest_clean"], report["first_failing"]) == (4096, 6144)
    assert report["suggestion"] == "in its entry: clients: {all: {context: 4096}}"
    assert "The context has 5000 tokens" in report["tiers"][-1]["problem"]
    kept = "/var/lib/sparkd/soak/smoke-narrow.json"
    assert json.loads(smoking.run("cat", kept).stdout) == report
    assert smoking.run("stat", "-c", "%U %a", kept).stdout == "sparkd 640\n"
    assert json.loads(smoking.engine_state("smoke-narrow")["last"]["body"])["max_tokens"] == 256


def test_soak_of_what_is_clean_ends_with_success(smoking: Host) -> None:
    words = ("smoke-b", "--tiers", "200,400", "--concurrency", "3", "--answer", "10")
    done = smoking.run("sparkctl", "soak", *words)
    assert done.stdout.splitlines()[0] == (
        "smoke-b: clean up to 410 tokens, the longest that was tried"
    )
    assert [line.split(":")[0] for line in done.stderr.splitlines()[1:]] == [
        "200 tokens x 3",
        "400 tokens x 3",
    ]
