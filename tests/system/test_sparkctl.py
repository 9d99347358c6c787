# SPDX-License-Identifier: Apache-2.0
"""What `sparkctl` promises on a booted host: it acts on real models, with or without the daemon."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from .hosts import HOST, Host, Stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

STRANGER = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "sparkctl")
LOCAL = "/etc/sparkd/models.d/test-sparkctl.yaml"
FAKE = "image: localhost/sparkd-fake-vllm:latest, shm_size: 64MiB, idle_timeout: 10m"


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
        try:
            yield process
            process.wait(120)
        except BaseException:
            process.kill()
            raise


@contextmanager
def given_up(host: Host, *words: str, signal: str = "INT") -> Iterator[subprocess.Popen[str]]:
    """A sparkctl that is told to end at the end of the block, and does, as when interrupted."""
    with in_background(host, *words) as process:
        yield process
        host.run("pkill", f"-{signal}", "-f", f"sparkctl {' '.join(words)}$")
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 130


def shown(lines: Iterable[str] | None, words: str) -> bool:
    """Whether the words come, however long that takes, before the output ends."""
    assert lines is not None
    return any(words in line for line in lines)


def wait_state(host: Host, model: str, state: str) -> None:
    host.wait_until(lambda: states(host)[model] == state, f"{model} is {state}")


def wait_logged(
    host: Host, model: str, words: str, sparkctl: tuple[str, ...] = ("sparkctl",)
) -> None:
    """What a model prints is in the journal a moment later."""
    host.wait_until(lambda: words in host.run(*sparkctl, "logs", model).stdout, f"logged: {words}")


def traces(host: Host) -> list[str]:
    """Whatever is left of models that ran: units, containers, endpoint directories.

    For models whose timers do not elapse meanwhile: an idle pass is a unit too.
    """
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
        "adapters": [],
        "max_model_len": 2048,
        "local": "yes",
        "missing": [],
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
    assert host.system_unit_states().get("sparkd.service", "inactive") == "inactive"


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
    host.run("sparkctl", "start", "fake-a")
    with host.lent("fake-a"):
        # A check that finds it in use sets the time of the next one.
        host.wait_until(
            lambda: [one["idle_check_at"] is not None for one in as_json(host, "ps")] == [True],
            "it will be checked",
        )
    host.wait_until(lambda: pids(host) == {}, "fake-a is gone")
    host.wait_until(lambda: traces(host) == [], "nothing is left of it")


def test_nothing_of_roots_is_left_among_sparkds_files(host: Host) -> None:
    host.run("sparkctl", "start", "fake-b")
    host.run("sparkctl", "stop", "fake-b")
    assert host.sh("find /run/sparkd /var/lib/sparkd ! -user sparkd -uid -100000") == ""


@pytest.mark.parametrize("signal", ["INT", "TERM", "HUP"])
def test_start_that_is_given_up_leaves_nothing_behind(host: Host, signal: str) -> None:
    with (
        host.held_load("fake-b"),
        given_up(host, "start", "fake-b", signal=signal),
    ):
        host.wait_until(lambda: host.containers() != [], "it loads")
    assert traces(host) == []
    assert states(host)["fake-b"] == "stopped"
    host.run("flock", "-n", "/run/sparkd/gpu.lock", "true")


def test_giving_up_leaves_a_start_of_the_daemon_alone(host: Host) -> None:
    with host.held_load("fake-b"):
        stream = Stream(host, "fake-b", tokens=3, pace_ms=10)
        wait_state(host, "fake-b", "starting")
        with given_up(host, "start", "fake-b") as second:
            assert shown(second.stderr, "fake-b: loading")
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
    assert states(host)["fake-crash"] == "backing-off"
    wait_logged(host, "fake-crash", "No available memory")


def test_stop_of_a_model_that_crashed_keeps_what_tells_why(host: Host) -> None:
    host.run("sparkctl", "start", "fake-crash", check=False)
    assert as_json(host, "stop", "fake-crash")["stopped"] is False
    assert states(host)["fake-crash"] == "backing-off"


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
            host.run("pkill", "-fx", "sleep 4321", check=False)
    assert refused.returncode == 5
    assert f"the GPU is held by pid {found['pid']}, 'flock -o " in refused.stderr
    assert (found["exclusive"], found["model"]) == (True, None)


def test_stop_waits_for_the_stream_that_runs(host: Host) -> None:
    stream = Stream(host, "fake-b", tokens=30, pace_ms=100)
    stream.wait_first()
    with ExitStack() as stopping, host.lent("fake-b"):
        stop = stopping.enter_context(in_background(host, "stop", "fake-b"))
        wait_state(host, "fake-b", "stopping")
        (running,) = as_json(host, "ps")
        assert running["in_use"] is True
        stream.wait()
        assert stop.poll() is None
    assert stop.returncode == 0
    assert stream.whole, stream.text
    assert pids(host) == {}


def test_stop_now_ends_the_stream_that_runs(host: Host) -> None:
    stream = Stream(host, "fake-b", tokens=1000, pace_ms=100)
    stream.wait_first()
    assert as_json(host, "stop", "--now", "fake-b")["stopped"] is True
    stream.wait()
    assert not stream.whole
    assert "upstream_lost" in stream.text
    assert traces(host) == []


def test_stop_now_ends_a_start_in_progress_and_leaves_nothing(host: Host) -> None:
    with (
        host.held_load("fake-b"),
        in_background(host, "start", "fake-b") as start,
    ):
        wait_state(host, "fake-b", "starting")
        assert as_json(host, "stop", "--now", "fake-b")["stopped"] is True
        assert start.wait(60) == 4
    assert traces(host) == []


def test_stop_waits_for_a_start_in_progress(host: Host) -> None:
    with ExitStack() as both, host.held_load("fake-b"):
        start = both.enter_context(in_background(host, "start", "fake-b"))
        wait_state(host, "fake-b", "starting")
        stop = both.enter_context(in_background(host, "stop", "fake-b"))
        assert shown(stop.stderr, "fake-b: stopping")
        assert start.poll() is None
    assert (start.returncode, stop.returncode) == (0, 0)
    assert pids(host) == {}


def test_stop_of_a_stopped_model_succeeds(host: Host) -> None:
    assert as_json(host, "stop", "fake-a")["stopped"] is False
    assert as_json(host, "stop", "--now", "fake-a")["stopped"] is False


def test_stop_that_is_given_up_leaves_model_and_stream_alone(host: Host) -> None:
    stream = Stream(host, "fake-b", tokens=50, pace_ms=100)
    stream.wait_first()
    with host.lent("fake-b"):
        with given_up(host, "stop", "fake-b"):
            wait_state(host, "fake-b", "stopping")
        assert host.chat("fake-b").status_code == 200
    stream.wait()
    assert stream.whole, stream.text


def test_start_waits_for_a_model_in_use_and_then_takes_its_place(host: Host) -> None:
    stream = Stream(host, "fake-b", tokens=30, pace_ms=100)
    stream.wait_first()
    with ExitStack() as starting, host.lent("fake-b"):
        start = starting.enter_context(in_background(host, "start", "fake-c"))
        assert shown(start.stderr, "fake-c: waiting ")
        stream.wait()
        assert list(pids(host)) == ["fake-b"]
    assert start.returncode == 0
    assert stream.whole, stream.text
    assert list(pids(host)) == ["fake-c"]


def test_model_with_a_slash_in_its_id_starts_and_stops(host: Host) -> None:
    with host.file(LOCAL, f"models: {{org/fake+1.5: {{{FAKE}}}}}\n"):
        host.run("sparkctl", "start", "org/fake+1.5")
        assert list(pids(host)) == ["org/fake+1.5"]
        wait_logged(host, "org/fake+1.5", "startup complete")
        assert as_json(host, "stop", "org/fake+1.5")["stopped"] is True
    assert traces(host) == []


def test_model_that_left_the_catalog_can_be_seen_and_stopped(host: Host) -> None:
    with host.file(LOCAL, f"models: {{fake-passing: {{{FAKE}}}}}\n"):
        host.run("sparkctl", "start", "fake-passing")
    assert list(pids(host)) == ["fake-passing"]
    assert "fake-passing" not in states(host)
    assert as_json(host, "stop", "fake-passing")["stopped"] is True
    wait_logged(host, "fake-passing", "startup complete")
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
    host.run(*as_sparkd, "start", "fake-b")
    wait_logged(host, "fake-b", "startup complete", as_sparkd)
    host.run(*as_sparkd, "stop", "fake-b")
    assert host.run(*as_sparkd, "key", "show").stdout.splitlines()[-1] == host.key


def test_logs_hold_only_what_the_model_printed_and_take_the_last_lines(host: Host) -> None:
    host.run("sparkctl", "start", "fake-c")
    entries = host.run("sparkctl", "logs", "--json", "-n", "3", "fake-c").stdout.splitlines()
    assert len(entries) == 3
    for entry in map(json.loads, entries):
        assert (entry["_COMM"], entry["CONTAINER_NAME"]) == ("conmon", "sparkd-model-fake-c")


def test_logs_follow_goes_on_with_what_comes_next(host: Host) -> None:
    host.run("sparkctl", "start", "fake-b")
    with in_background(host, "logs", "-f", "-n", "1", "fake-b") as follow:
        assert shown(follow.stdout, "Application startup complete")
        host.run("sparkctl", "stop", "fake-b")
        assert shown(follow.stdout, "Shutting down")
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
    assert took_s < 28, "each would wait 15 s for one that is only starting"
