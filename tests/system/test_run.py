# SPDX-License-Identifier: Apache-2.0
"""`sparkctl run` on a booted host: answers of a model in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack

import pytest

from .hosts import Host
from .test_sparkctl import in_background

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

STRANGER = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")


def test_answer_of_a_cold_model_is_all_of_stdout_and_the_load_is_on_stderr(host: Host) -> None:
    with ExitStack() as held:
        held.enter_context(host.held_load("fake-b"))
        with in_background(host, "run", "fake-b", "hello", "there") as asking:
            assert asking.stdout is not None
            assert asking.stderr is not None
            assert asking.stderr.readline().startswith("loading fake-b ")
            held.close()
            assert asking.stdout.read() == "echo: hello there\n"
    assert host.run("sparkctl", "run", "fake-b", input="from stdin").stdout == (
        "echo: from stdin\n"
    )
    answer = json.loads(host.run("sparkctl", "run", "--json", "fake-b", "hello").stdout)
    assert (answer["text"], answer["finish_reason"]) == ("echo: hello", "stop")
    assert answer["usage"]["completion_tokens"] == 2


def test_conversation_on_a_terminal_remembers_what_was_said(host: Host) -> None:
    typed = "one two\\nthree\\n\\n"
    shown = host.sh(f"printf '{typed}' | script -qec 'sparkctl run fake-b' /dev/null")
    assert "echo: one two" in shown
    assert "echo: three" in shown
    last = json.loads(host.engine_state("fake-b")["last"]["body"])
    assert [(one["role"], one["content"]) for one in last["messages"]] == [
        ("user", "one two"),
        ("assistant", "echo: one two"),
        ("user", "three"),
    ]


def test_ctrl_c_ends_the_work_of_the_model_too(host: Host) -> None:
    host.run("sparkctl", "start", "fake-b")
    with host.file("/var/lib/sparkd/cache/fake-b/fake.json", '{"pace_ms": 200, "tokens": 100}'):
        with in_background(host, "run", "fake-b", "hello") as asking:
            assert asking.stdout is not None
            assert asking.stderr is not None
            assert asking.stdout.read(11) == "echo: hello"
            host.run("pkill", "-INT", "-f", "sparkctl run fake-b hello")
            assert "Traceback" not in asking.stderr.read()
        assert asking.returncode == 130
        host.wait_until(lambda: host.engine_state("fake-b")["cancelled"] == 1, "it is cancelled")


def test_whoever_has_a_key_of_his_own_needs_no_root(host: Host) -> None:
    refused = host.run(*STRANGER, "sparkctl", "run", "fake-b", "hello", check=False)
    assert refused.returncode == 8
    assert refused.stderr.splitlines()[-1] == "  hint: sudo sparkctl run fake-b hello"
    asked = (*STRANGER, "env", f"SPARKD_API_KEY={host.key}", "sparkctl", "run", "fake-b", "hello")
    assert host.run(*asked).stdout == "echo: hello\n"


def test_error_of_the_gateway_is_one_line_and_its_exit_code(host: Host) -> None:
    crashed = host.run("sparkctl", "run", "fake-crash", "hello", check=False)
    assert crashed.returncode == 4
    first, second = crashed.stderr.splitlines()[-2:]
    assert first.startswith("sparkctl: model 'fake-crash' exited with code 3 while it started")
    assert second == "  hint: sudo sparkctl logs fake-crash"
    assert host.run("sparkctl", "run", "fake-no", "hello", check=False).returncode == 3
    host.run("systemctl", "stop", "sparkd.socket", "sparkd.service")
    down = host.run("sparkctl", "run", "fake-b", "hello", check=False)
    assert down.returncode == 6
    hint = "  hint: sudo sparkctl doctor tells why; for another address set SPARKD_URL"
    assert down.stderr.splitlines()[-1] == hint
