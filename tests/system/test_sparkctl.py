# SPDX-License-Identifier: Apache-2.0
"""What `sparkctl` promises on a booted host: it acts on real models, with or without the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .hosts import HOST, Host, Stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

STRANGER = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "sparkctl")
LOCAL = "/etc/sparkd/models.d/test-sparkctl.yaml"
FAKE = "image: localhost/sparkd-fake-vllm:latest, shm_size: 64MiB, idle_timeout: 10s"


def as_json(host: Host, *words: str) -> Any:
    return json.loads(host.run("sparkctl", *words, "--json").stdout)


def states(host: Host) -> dict[str, str]:
    return {model["id"]: model["state"] for model in as_json(host, "models")}


def pids(host: Host) -> dict[str, int]:
    return {model["id"]: model["pid"] for model in as_json(host, "ps")}


@contextmanager
def in_background(host: Host, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A sparkctl that goes on meanwhile."""
    with subprocess.Popen(
        [str(HOST), "run", "--name", host.name, "--", "sparkctl", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.wait(60)


def wait_state(host: Host, model: str, state: str) -> None:
    host.wait_until(lambda: states(host)[model] == state, f"{model} is {state}")


def traces(host: Host) -> list[str]:
    """Whatever is left of models that ran: units, containers, endpoint directories."""
    units = host.sh(
        "systemctl --user list-units --all --plain --no-legend 'sparkd-*' | cut -d' ' -f1",
        user="sparkd",
    )
    containers = [container["Names"][0] for container in host.containers()]
    return [*units.split(), *containers, *host.sh("ls /run/sparkd/models").split()]


def test_models_lists_the_catalog_as_json(host: Host) -> None:
    listed = {model["id"]: model for model in as_json(host, "models")}
    assert listed["fake-util"] == {
        "id": "fake-util",
        "lifecycle": "utility",
        "state": "stopped",
        "status": "experimental",
        "reason": None,
        "dialects": ["chat", "completions", "embeddings", "transcriptions"],
        "aliases": ["little", "org/little"],
        "max_model_len": 2048,
        "problem": None,
    }
    assert listed["fake-excl"]["lifecycle"] == "exclusive"


def test_start_ps_and_stop_work_while_socket_and_daemon_are_down(host: Host) -> None:
    host.run("systemctl", "stop", "sparkd.socket", "sparkd.service")
    started = as_json(host, "start", "fake-b")
    assert (started["id"], started["state"], started["started"]) == ("fake-b", "ready", True)
    (running,) = as_json(host, "ps")
    assert (running["id"], running["state"], running["in_use"]) == ("fake-b", "ready", False)
    assert running["pid"] == started["pid"]
    comm = host.run("cat", f"/proc/{running['pid']}/cgroup").stdout
    assert comm.strip().endswith(f"/sparkd.slice/{running['scope']}")
    stopped = as_json(host, "stop", "fake-b")
    assert (stopped["state"], stopped["stopped"]) == ("stopped", True)
    assert traces(host) == []
    assert host.system_unit_states()["sparkd.service"] == "inactive"


def test_start_of_a_ready_model_succeeds_and_changes_nothing(host: Host) -> None:
    first = as_json(host, "start", "fake-c")
    again = as_json(host, "start", "fake-c")
    assert (first["started"], again["started"]) == (True, False)
    assert first["pid"] == again["pid"]


def test_model_started_by_hand_answers_through_the_daemon_without_a_second_start(
    host: Host,
) -> None:
    pid = as_json(host, "start", "fake-c")["pid"]
    assert host.chat("fake-c").status_code == 200
    assert pids(host) == {"fake-c": pid}


def test_model_started_by_hand_is_stopped_when_it_is_idle(host: Host) -> None:
    with host.file(LOCAL, f"models: {{fake-brief: {{{FAKE.replace('10s', '8s')}}}}}\n"):
        host.run("sparkctl", "start", "fake-brief")
        (running,) = as_json(host, "ps")
        assert running["idle_check_at"] is not None
        host.wait_until(lambda: pids(host) == {}, "fake-brief is gone")
    assert traces(host) == []


def test_nothing_of_roots_is_left_among_sparkds_files(host: Host) -> None:
    host.run("sparkctl", "start", "fake-a")
    host.run("sparkctl", "stop", "fake-a")
    assert host.sh("find /run/sparkd /var/lib/sparkd ! -user sparkd -uid -100000") == ""


@pytest.mark.parametrize("signal", ["INT", "TERM", "HUP"])
def test_start_that_is_given_up_leaves_nothing_behind(host: Host, signal: str) -> None:
    timeout = ("timeout", "--preserve-status", "--signal", signal, "3")
    given_up = host.run(*timeout, "sparkctl", "start", "fake-slow", check=False)
    assert given_up.returncode == 130
    assert "Traceback" not in given_up.stderr
    assert traces(host) == []
    assert states(host)["fake-slow"] == "stopped"
    host.run("flock", "-n", "/run/sparkd/gpu.lock", "true")


def test_giving_up_leaves_a_start_of_the_daemon_alone(host: Host) -> None:
    stream = Stream(host, "fake-slow", tokens=3, pace_ms=10)
    wait_state(host, "fake-slow", "starting")
    timeout = ("timeout", "--preserve-status", "--signal", "INT", "2")
    assert host.run(*timeout, "sparkctl", "start", "fake-slow", check=False).returncode == 130
    stream.wait()
    assert stream.whole, stream.text


def test_start_that_crashes_tells_exit_code_and_last_words_and_logs_still_has_them(
    host: Host,
) -> None:
    crashed = host.run("sparkctl", "start", "fake-crash", check=False)
    assert crashed.returncode == 4
    error, hint = crashed.stderr.splitlines()[-2:]
    assert error.startswith("sparkctl: model 'fake-crash' exited with code 3 while it started")
    assert "No available memory for the cache blocks" in error
    assert hint.startswith("  hint: sudo sparkctl logs fake-crash")
    assert states(host)["fake-crash"] == "failed"
    assert "No available memory" in host.run("sparkctl", "logs", "fake-crash").stdout


def test_stop_of_a_model_that_crashed_keeps_what_tells_why(host: Host) -> None:
    host.run("sparkctl", "start", "fake-crash", check=False)
    assert as_json(host, "stop", "fake-crash")["stopped"] is False
    assert states(host)["fake-crash"] == "failed"


def test_start_that_hangs_ends_with_4_at_its_load_timeout(host: Host) -> None:
    hung = host.run("sparkctl", "start", "fake-hang", check=False)
    assert hung.returncode == 4
    assert "was not healthy within its load timeout of 4 s" in hung.stderr
    assert pids(host) == {}


def test_start_names_the_program_that_holds_the_gpu(host: Host) -> None:
    holder = ["flock", "-o", "/run/sparkd/gpu.lock", "sleep", "4321"]
    with subprocess.Popen(
        [str(HOST), "run", "--name", host.name, "--", *holder], stdin=subprocess.DEVNULL
    ):
        host.wait_until(lambda: as_json(host, "status")["gpu"]["held"], "the GPU is held")
        try:
            refused = host.run("sparkctl", "start", "fake-a", check=False)
            (found,) = as_json(host, "status")["gpu"]["holders"]
        finally:
            host.run("kill", str(found["pid"]))
            host.run("pkill", "-fx", "sleep 4321")
    assert refused.returncode == 5
    assert f"the GPU is held by pid {found['pid']}, 'flock -o " in refused.stderr
    assert (found["exclusive"], found["model"]) == (True, None)


def test_stop_waits_for_the_stream_that_runs(host: Host) -> None:
    stream = Stream(host, "fake-a", tokens=60, pace_ms=100)
    stream.wait_first()
    (running,) = as_json(host, "ps")
    assert running["in_use"] is True
    stopped = as_json(host, "stop", "fake-a")
    assert stopped["seconds"] > 1
    stream.wait()
    assert stream.whole, stream.text
    assert pids(host) == {}


def test_stop_now_ends_the_stream_that_runs(host: Host) -> None:
    stream = Stream(host, "fake-a", tokens=400, pace_ms=100)
    stream.wait_first()
    assert as_json(host, "stop", "--now", "fake-a")["stopped"] is True
    stream.wait()
    assert not stream.whole
    assert "upstream_lost" in stream.text
    assert traces(host) == []


def test_stop_now_ends_a_start_in_progress_and_leaves_nothing(host: Host) -> None:
    with in_background(host, "start", "fake-slow") as start:
        wait_state(host, "fake-slow", "starting")
        stopped = as_json(host, "stop", "--now", "fake-slow")
        assert stopped["stopped"] is True
        assert stopped["seconds"] < 6
        assert start.wait(30) == 4
    assert traces(host) == []


def test_stop_waits_for_a_start_in_progress(host: Host) -> None:
    with in_background(host, "start", "fake-slow") as start:
        wait_state(host, "fake-slow", "starting")
        assert as_json(host, "stop", "fake-slow")["stopped"] is True
        assert start.wait(30) == 0
    assert pids(host) == {}


def test_stop_of_a_stopped_model_succeeds(host: Host) -> None:
    assert as_json(host, "stop", "fake-a")["stopped"] is False
    assert as_json(host, "stop", "--now", "fake-a")["stopped"] is False


def test_stop_that_is_given_up_leaves_model_and_stream_alone(host: Host) -> None:
    stream = Stream(host, "fake-a", tokens=60, pace_ms=100)
    stream.wait_first()
    timeout = ("timeout", "--preserve-status", "--signal", "INT", "2")
    assert host.run(*timeout, "sparkctl", "stop", "fake-a", check=False).returncode == 130
    assert host.chat("fake-a").status_code == 200
    stream.wait()
    assert stream.whole, stream.text


def test_start_waits_for_a_model_in_use_and_then_takes_its_place(host: Host) -> None:
    stream = Stream(host, "fake-a", tokens=40, pace_ms=100)
    stream.wait_first()
    waited = host.run("sparkctl", "start", "fake-c")
    assert "fake-c: waiting " in waited.stderr
    stream.wait()
    assert stream.whole, stream.text
    assert list(pids(host)) == ["fake-c"]


def test_model_with_a_slash_in_its_id_starts_and_stops(host: Host) -> None:
    with host.file(LOCAL, f"models: {{org/fake+1.5: {{{FAKE}}}}}\n"):
        host.run("sparkctl", "start", "org/fake+1.5")
        assert list(pids(host)) == ["org/fake+1.5"]
        assert "startup complete" in host.run("sparkctl", "logs", "org/fake+1.5").stdout
        assert as_json(host, "stop", "org/fake+1.5")["stopped"] is True
    assert traces(host) == []


def test_model_that_left_the_catalog_can_be_seen_and_stopped(host: Host) -> None:
    with host.file(LOCAL, f"models: {{fake-passing: {{{FAKE}}}}}\n"):
        host.run("sparkctl", "start", "fake-passing")
    assert list(pids(host)) == ["fake-passing"]
    assert "fake-passing" not in states(host)
    assert as_json(host, "stop", "fake-passing")["stopped"] is True
    assert "startup complete" in host.run("sparkctl", "logs", "fake-passing").stdout
    gone = host.run("sparkctl", "stop", "fake-passing", check=False)
    assert gone.returncode == 3


def test_broken_entry_is_listed_and_refused_and_check_points_at_it(host: Host) -> None:
    with host.file(LOCAL, "models:\n  fake-bad: {gup: all}\n"):
        listed = {model["id"]: model for model in as_json(host, "models")}
        assert listed["fake-bad"]["problem"].startswith(f"{LOCAL}:2: models.fake-bad")
        refused = host.run("sparkctl", "start", "fake-bad", check=False)
        assert (refused.returncode, "sparkctl check" in refused.stderr) == (7, True)
        checked = host.run("sparkctl", "check", check=False)
        assert checked.returncode == 1
        assert f"{LOCAL}:2: models.fake-bad.gup: " in checked.stdout
        assert as_json(host, "status")["problems"] == len(checked.stdout.splitlines())
    assert host.run("sparkctl", "check").stdout.startswith("ok: ")


def test_unknown_model_is_not_found_and_the_nearest_are_named(host: Host) -> None:
    for command in ("start", "stop", "logs"):
        done = host.run("sparkctl", command, "fake-aa", check=False)
        assert done.returncode == 3
        assert done.stderr.startswith("sparkctl: there is no model 'fake-aa'\n  hint: did you mean")
        assert "fake-a" in done.stderr.splitlines()[1]


def test_another_user_may_look_but_not_touch(host: Host) -> None:
    listed = host.run(*STRANGER, "models", "--json")
    assert {model["state"] for model in json.loads(listed.stdout)} == {"unknown"}
    assert host.run(*STRANGER, "check").stdout.startswith("ok: ")
    assert "socket    active" in host.run(*STRANGER, "status").stdout
    for words in (["ps"], ["start", "fake-a"], ["logs", "fake-a"], ["key", "show"]):
        refused = host.run(*STRANGER, *words, check=False)
        assert (refused.returncode, refused.stdout) == (8, "")
        assert refused.stderr.splitlines()[1] == f"  hint: sudo sparkctl {' '.join(words)}"
    assert traces(host) == []


def test_user_sparkd_needs_no_root(host: Host) -> None:
    as_sparkd = ("setpriv", "--reuid", "sparkd", "--regid", "sparkd", "--init-groups", "sparkctl")
    host.run(*as_sparkd, "start", "fake-a")
    assert "startup complete" in host.run(*as_sparkd, "logs", "fake-a").stdout
    host.run(*as_sparkd, "stop", "fake-a")
    assert host.run(*as_sparkd, "key", "show").stdout.splitlines()[-1] == host.key


def test_logs_hold_only_what_the_model_printed_and_take_the_last_lines(host: Host) -> None:
    host.run("sparkctl", "start", "fake-c")
    entries = host.run("sparkctl", "logs", "--json", "-n", "3", "fake-c").stdout.splitlines()
    assert len(entries) == 3
    for entry in map(json.loads, entries):
        assert (entry["_COMM"], entry["CONTAINER_NAME"]) == ("conmon", "sparkd-model-fake-c")


def test_logs_follow_goes_on_with_what_comes_next(host: Host) -> None:
    with in_background(host, "logs", "-f", "-n", "0", "fake-a") as follow:
        time.sleep(1)
        host.run("sparkctl", "start", "fake-a")
        assert follow.stdout is not None
        assert "sparkd-model-fake-a" in follow.stdout.readline()
        follow.terminate()


def test_key_rotate_ends_the_old_key_and_begins_the_new_one_in_a_running_daemon(
    host: Host,
) -> None:
    old = host.run("sparkctl", "key", "show").stdout.splitlines()[-1]
    host.run("sparkctl", "start", "fake-c")
    assert host.request("GET", "/v1/models", key=old).status_code == 200
    rotated = as_json(host, "key", "rotate")
    (new,) = rotated["keys"]
    assert new != old
    assert rotated["daemon_restarts"] is False
    assert host.run("sparkctl", "key", "show").stdout.splitlines()[-1] == new
    stat = host.run("stat", "-c", "%a %U:%G", "/etc/sparkd/api-key").stdout
    assert stat.strip() == "640 root:sparkd"
    assert host.request("GET", "/v1/models", key=new).status_code == 200
    assert host.request("GET", "/v1/models", key=old).status_code == 401
    assert list(pids(host)) == ["fake-c"]


def test_status_shows_socket_service_gpu_and_models(host: Host) -> None:
    host.run("sparkctl", "start", "fake-util")
    status = as_json(host, "status")
    assert status["socket"]["state"] == "active"
    assert status["socket"]["enabled"] == "enabled"
    assert status["socket"]["listen"] == ["127.0.0.1:8009"]
    assert [model["id"] for model in status["models"]["running"]] == ["fake-util"]
    (holder,) = status["gpu"]["holders"]
    assert (holder["model"], holder["exclusive"]) == ("fake-util", False)
    assert holder["pid"] == status["models"]["running"][0]["pid"]


def test_commands_say_at_once_when_the_user_manager_is_down(host: Host) -> None:
    manager = f"user@{host.run('id', '-u', 'sparkd').stdout.strip()}.service"
    host.run("systemctl", "stop", manager)
    try:
        began_s = time.monotonic()
        listed = host.run("sparkctl", "models")
        assert "unknown" in listed.stdout
        ps = host.run("sparkctl", "ps", check=False)
        took_s = time.monotonic() - began_s
    finally:
        host.run("systemctl", "start", manager)
    assert "states are unknown: the user manager of sparkd does not run" in listed.stderr
    assert ps.returncode == 6
    assert f"  hint: sudo systemctl start {manager}" in ps.stderr
    assert took_s < 20
