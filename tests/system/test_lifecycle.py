# SPDX-License-Identifier: Apache-2.0
"""A model's whole life on a real host: which units, containers and locks exist after each event."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest

from .hosts import SETTINGS, Host, Stream, answer_of, chat_body, held_stream

QUICK = SETTINGS + "idle_exit: 3s\n"
LOCAL = "/etc/sparkd/models.d/test-lifecycle.yaml"
FAKE = "image: localhost/sparkd-fake-vllm:latest, weights: none, shm_size: 64MiB"


@dataclass(frozen=True)
class Table:
    """What a look at the host shows about one model and the daemon."""

    socket: str
    service: str
    scope: str
    timer: str
    container: str
    endpoint: bool
    gpu_held: bool


AT_REST = Table("active", "inactive", "-", "-", "-", False, False)
SERVING = Table("active", "active", "active", "active", "running", True, True)
MODEL_WITHOUT_DAEMON = Table("active", "inactive", "active", "active", "running", True, True)
DAEMON_WITHOUT_MODEL = Table("active", "active", "-", "-", "-", False, False)


def table(host: Host, model: str) -> Table:
    system, user = host.system_unit_states(), host.user_unit_states()
    containers = {c["Names"][0]: c["State"] for c in host.containers()}
    timers = {user.get(f"sparkd-{kind}@{model}.timer", "-") for kind in ("idle", "load")}
    return Table(
        socket=system.get("sparkd.socket", "-"),
        service=system.get("sparkd.service", "inactive"),
        scope=user.get(f"sparkd-model-{model}.scope", "-"),
        timer="active" if "active" in timers else "-",
        container=containers.get(f"sparkd-model-{model}", "-"),
        endpoint=(host.root / f"run/sparkd/models/{model}").exists(),
        gpu_held=gpu_held(host),
    )


def gpu_held(host: Host) -> bool:
    return host.locked("/run/sparkd/gpu.lock")


def container_id(host: Host, model: str) -> str:
    ids = [c["Id"] for c in host.containers() if c["Names"] == [f"sparkd-model-{model}"]]
    assert len(ids) == 1, ids
    return ids[0]


def pids(host: Host, model: str) -> dict[str, int]:
    """The payload and conmon of a running model."""
    out = host.run("podman", "inspect", f"sparkd-model-{model}", user="sparkd").stdout
    state = json.loads(out)[0]["State"]
    return {"payload": state["Pid"], "conmon": state["ConmonPid"]}


def daemon_pid(host: Host) -> int:
    return int(host.sh("systemctl show -p MainPID --value sparkd.service"))


def kill_daemon_for_good(host: Host) -> None:
    """Kill it, and let systemd start no other; the unit is as if nothing had failed."""
    host.run("systemctl", "kill", "--signal=KILL", "sparkd.service")
    host.run("systemctl", "stop", "sparkd.service")
    # Whether that was a failure depends on which of the two systemd saw first.
    host.run("systemctl", "reset-failed", "sparkd.service")


def wait_free(host: Host) -> None:
    host.wait_until(lambda: not gpu_held(host), "the GPU is free")


def wait_for_nothing_but_a_container(host: Host, model: str) -> None:
    """The load timer, which would clean up in the end, is not waited for so long."""

    def gone() -> bool:
        seen = table(host, model)
        return (seen.scope, seen.timer, seen.endpoint, seen.gpu_held) == ("-", "-", False, False)

    host.wait_until(gone, f"nothing else is left of {model}", timeout_s=9)


def wait_for(host: Host, model: str, expected: Table, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while (seen := table(host, model)) != expected:
        assert time.monotonic() < deadline_s, f"{seen} is not {expected}"
        time.sleep(0.1)


@pytest.fixture
def quick(host: Host):
    """A host whose daemon leaves after three idle seconds."""
    with host.file("/etc/sparkd/sparkd.yaml", QUICK):
        host.run("systemctl", "stop", "sparkd.service")
        yield host
        host.run("systemctl", "stop", "sparkd.service")


def test_whole_life_from_first_request_to_nothing_running(quick: Host) -> None:
    quick.run("systemctl", "--user", "stop", "podman.service", user="sparkd")
    assert table(quick, "fake-a") == AT_REST
    cursor, podman = quick.cursor(), podmans_last_begin(quick)

    assert answer_of(quick.chat("fake-a", "one two")) == "echo: one two"
    with quick.lent("fake-a"):
        # Its timer elapses now and then, and is set anew.
        wait_for(quick, "fake-a", SERVING)
    assert podmans_last_begin(quick) != podman

    wait_for(quick, "fake-a", AT_REST)
    ends = quick.journal("SPARKD_EVENT=model-stopped", "SPARKD_EVENT=daemon-stopping", since=cursor)
    assert [end["SPARKD_EVENT"] for end in ends] == ["model-stopped", "daemon-stopping"]
    assert ends[0]["SPARKD_REASON"] == "idle"
    quick.wait_until(
        lambda: quick.user_unit_states()["podman.service"] == "inactive", "Podman has left too"
    )
    assert answer_of(quick.chat("fake-a", "again")) == "echo: again"


def podmans_last_begin(host: Host) -> str:
    """When Podman's service was last started: it leaves soon after each answer."""
    show = "systemctl --user show podman.service --value -p ActiveEnterTimestampMonotonic"
    return host.sh(show, user="sparkd")


def test_model_idle_by_one_timeout_is_gone_before_a_second_one_is_over(host: Host) -> None:
    idle_s = 10.0
    with host.file(LOCAL, f"models: {{fake-brief: {{{FAKE}, idle_timeout: {idle_s:g}s}}}}\n"):
        host.run("systemctl", "stop", "sparkd.service")
        cursor = host.cursor()
        answer_of(host.chat("fake-brief"))
        wait_free(host)
        (asked,) = host.entries(1, "SPARKD_EVENT=request", since=cursor)
        (stopped,) = host.entries(1, "SPARKD_EVENT=model-stopped", since=cursor)
    used_s, gone_s = (int(one["__MONOTONIC_TIMESTAMP"]) / 1e6 for one in (asked, stopped))
    assert idle_s - 1 < gone_s - used_s < 2 * idle_s


def test_stream_longer_than_the_idle_timeout_is_never_cut(host: Host) -> None:
    stream = Stream(host, "fake-a", tokens=20, pace_ms=500)
    stream.wait(120)
    assert stream.whole, stream.text[-500:]
    wait_free(host)


def test_sigterm_lets_the_open_stream_end_and_the_model_live(quick: Host) -> None:
    stream = held_stream(quick, "fake-b")
    before = container_id(quick, "fake-b")
    quick.run("systemctl", "stop", "--no-block", "sparkd.service")
    quick.wait_until(
        lambda: quick.system_unit_states()["sparkd.service"] == "deactivating", "it is to stop"
    )
    stream.go_on()
    stream.wait()
    assert stream.whole, stream.text[-500:]
    wait_for(quick, "fake-b", MODEL_WITHOUT_DAEMON)
    answer_of(quick.chat("fake-b"))
    assert container_id(quick, "fake-b") == before


def test_who_still_waits_when_the_gateway_must_go_is_told_to_ask_again(host: Host) -> None:
    host.configure(f"{SETTINGS}drain_timeout: 3s\n")
    in_the_way = held_stream(host, "fake-b")
    waiting = Stream(host, "fake-c", tokens=1, pace_ms=1)
    host.wait_until(
        lambda: bool(host.request("GET", "/status").json()["queue"]), "the second one waits"
    )
    host.run("systemctl", "restart", "sparkd.service")
    waiting.wait()
    assert waiting.error is None
    assert '"code": "unavailable"' in waiting.text
    in_the_way.wait()
    assert not in_the_way.whole


def test_killed_daemon_leaves_the_model_and_the_next_one_adopts_it(host: Host) -> None:
    stream = held_stream(host, "fake-a")
    with host.lent("fake-a"):
        before = container_id(host, "fake-a")
        host.run("kill", "-9", str(daemon_pid(host)))
        stream.wait()
        assert not stream.whole

        answer_of(host.chat("fake-a"))
        assert container_id(host, "fake-a") == before
        assert host.engine_state("fake-a")["requests"] == 2
    host.wait_until(lambda: not gpu_held(host), "the idle timer still stops it")
    host.wait_until(lambda: host.containers() == [], "and removes its container")


def test_killed_daemon_and_no_further_request_still_ends_the_model(host: Host) -> None:
    answer_of(host.chat("fake-a"))
    kill_daemon_for_good(host)
    host.wait_until(lambda: not gpu_held(host), "the idle timer stops it without a daemon")
    wait_for(host, "fake-a", AT_REST)


def test_half_written_file_of_a_killed_process_is_gone_after_the_next_start(host: Host) -> None:
    host.run("systemctl", "stop", "sparkd.service")
    pins = "/run/sparkd/pins"
    left = f"{pins}/.fake-a.999999999-0123456789ab.tmp"
    host.sh(f"install -d -o sparkd -g sparkd {pins} && touch {left}")
    host.request("GET", "/healthz")
    host.wait_until(lambda: host.run("test", "-e", left, check=False).returncode == 1, "it is gone")


def test_killed_conmon_leaves_a_model_that_serves_and_can_be_stopped(host: Host) -> None:
    answer_of(host.chat("fake-a"))
    with host.lent("fake-a"):
        host.run("kill", "-9", str(pids(host, "fake-a")["conmon"]))
        assert answer_of(host.chat("fake-a", "still")) == "echo: still"
    host.wait_until(lambda: not gpu_held(host), "the idle timer stops it")
    wait_for(host, "fake-a", DAEMON_WITHOUT_MODEL)
    assert answer_of(host.chat("fake-a", "anew")) == "echo: anew"


def test_killed_payload_ends_the_stream_and_the_next_request_starts_anew(host: Host) -> None:
    stream = held_stream(host, "fake-b")
    before = container_id(host, "fake-b")
    host.run("kill", "-9", str(pids(host, "fake-b")["payload"]))
    stream.wait(30)
    assert not stream.whole
    assert '"code": "upstream_lost"' in stream.text
    wait_free(host)
    answer_of(host.chat("fake-b"))
    assert container_id(host, "fake-b") != before


def test_stopped_scope_is_as_good_as_an_idle_stop(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    host.run("systemctl", "--user", "stop", "sparkd-model-fake-b.scope", user="sparkd")
    wait_free(host)
    assert answer_of(host.chat("fake-b", "back")) == "echo: back"


def test_container_removed_behind_our_back_is_started_again(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    host.run("podman", "rm", "--force", "sparkd-model-fake-b", user="sparkd")
    wait_free(host)
    assert answer_of(host.chat("fake-b", "back")) == "echo: back"


def test_restarted_user_manager_takes_the_models_and_the_next_request_goes_on(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    host.sh("systemctl restart user@$(id -u sparkd).service")
    wait_free(host)
    assert answer_of(host.chat("fake-b", "back")) == "echo: back"
    assert table(host, "fake-b") == SERVING


def test_rebooted_host_answers_the_first_request(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    host.reboot()
    assert table(host, "fake-b").socket == "active"
    assert answer_of(host.chat("fake-b", "morning")) == "echo: morning"
    assert table(host, "fake-b") == SERVING


def test_no_request_is_refused_across_twenty_daemon_restarts(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    answered = 0
    for _ in range(20):
        host.run("systemctl", "restart", "--no-block", "sparkd.service")
        for _ in range(10):
            assert answer_of(host.chat("fake-b", "on")) == "echo: on"
            answered += 1
    assert answered == 200
    assert host.system_unit_states()["sparkd.socket"] == "active"


def test_ten_first_requests_at_once_start_one_container(host: Host) -> None:
    cursor = host.cursor()

    async def ask() -> list[str]:
        import asyncio

        from .hosts import chat_body, client

        async with client(host.key) as http:
            responses = await asyncio.gather(
                *(
                    http.post("/v1/chat/completions", json=chat_body("fake-c", f"n{i}"))
                    for i in range(10)
                )
            )
        return [answer_of(response) for response in responses]

    assert host.loop.run(ask()) == [f"echo: n{i}" for i in range(10)]
    starts = host.journal("SPARKD_EVENT=model-starting", since=cursor)
    assert len(starts) == 1


def test_container_that_exits_at_start_is_reported_at_once_with_its_last_words(host: Host) -> None:
    response = host.chat("fake-crash")
    answered_at = time.time()
    assert response.status_code == 502
    error = response.json()["error"]
    assert error["code"] == "start_crashed"
    assert "code 3" in error["message"]
    assert "No available memory for the cache blocks" in error["message"]
    format_ = "{{.State.FinishedAt.UnixMilli}}"
    inspected = host.run(
        "podman", "inspect", "-f", format_, "sparkd-model-fake-crash", user="sparkd"
    )
    assert answered_at - int(inspected.stdout) / 1000 < 20.0, "its load timeout is 60 s"
    wait_for_nothing_but_a_container(host, "fake-crash")
    assert table(host, "fake-crash").container in ("exited", "stopped")


def test_model_that_never_becomes_healthy_fails_at_its_own_load_timeout(host: Host) -> None:
    began_s = time.monotonic()
    response = host.chat("fake-hang")
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "start_timed_out"
    assert 4.0 <= time.monotonic() - began_s < 60.0, "its load timeout is 4 s"
    wait_for_nothing_but_a_container(host, "fake-hang")


def test_second_main_model_stops_an_idle_first_one(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    answer_of(host.chat("fake-c"))
    assert table(host, "fake-b").scope == "-"
    assert table(host, "fake-c") == SERVING


def test_second_main_model_waits_for_a_busy_first_one(host: Host) -> None:
    stream = held_stream(host, "fake-b")
    second = Stream(host, "fake-c", tokens=2, pace_ms=0)
    host.wait_until(lambda: bool(host.request("GET", "/status").json()["queue"]), "it waits")
    assert table(host, "fake-b") == SERVING
    stream.go_on()
    for one in (stream, second):
        one.wait()
        assert one.whole, one.text


def test_utility_runs_beside_a_main_model_but_not_beside_an_exclusive_one(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    answer_of(host.chat("fake-util"))
    assert table(host, "fake-b").scope == table(host, "fake-util").scope == "active"
    answer_of(host.chat("fake-excl"))
    assert table(host, "fake-b").scope == table(host, "fake-util").scope == "-"
    assert table(host, "fake-excl").scope == "active"


def test_program_that_holds_the_gpu_is_named_to_admins_only(host: Host) -> None:
    key = host.run("sparkctl", "key", "add", "asks").stdout.splitlines()[-1]
    host.sh("systemd-run --quiet --unit=train flock /run/sparkd/gpu.lock sleep infinity")
    try:
        host.wait_until(lambda: gpu_held(host), "the other program holds the lock")
        response = host.chat("fake-b")
        assert response.status_code == 503
        error = response.json()["error"]
        assert error["code"] == "gpu_held"
        assert "flock /run/sparkd/gpu.lock sleep infinity" in error["message"]
        body = chat_body("fake-b")
        said = host.request("POST", "/v1/chat/completions", key=key, json=body).text
        assert "held by a program outside sparkd" in said
        assert "flock" not in said
        assert host.containers() == []
    finally:
        host.run("systemctl", "stop", "train.service")
        host.run("sparkctl", "key", "revoke", "asks")
    answer_of(host.chat("fake-b"))


def test_two_addresses_of_the_socket_are_both_served(host: Host) -> None:
    drop_in = "/run/systemd/system/sparkd.socket.d"
    host.sh(f"mkdir -p {drop_in}")
    host.run("tee", f"{drop_in}/more.conf", input="[Socket]\nListenStream=127.0.0.1:8010\n")
    try:
        host.sh("systemctl daemon-reload; systemctl stop sparkd.service")
        host.run("systemctl", "restart", "sparkd.socket")
        for port in (8009, 8010):
            assert host.sh(f"curl -s -m 60 http://127.0.0.1:{port}/healthz") == "ok"
    finally:
        host.sh(f"rm -r {drop_in}; systemctl daemon-reload; systemctl stop sparkd.service")
        host.run("systemctl", "restart", "sparkd.socket")


_SEALED = """\
models:
  sealed:
    image: localhost/sparkd-fake-vllm:latest
    weights: {path: /var/lib/sparkd/models/sealed}
    gpu: none
    max_model_len: 2048
"""


def test_weights_that_only_root_may_read_are_named_before_anything_starts(host: Host) -> None:
    weights = "/var/lib/sparkd/models/sealed"
    host.sh(f"mkdir -p {weights} && cd {weights} && touch config.json model.safetensors")
    host.run("chmod", "600", f"{weights}/model.safetensors")
    with host.file("/etc/sparkd/models.d/sealed.yaml", _SEALED):
        host.run("systemctl", "stop", "sparkd.service")
        error = host.chat("sealed").json()["error"]
        host.run("chmod", "644", f"{weights}/model.safetensors")
        assert answer_of(host.chat("sealed")).startswith("echo")
        host.stop_models()
    host.run("rm", "-r", weights)
    assert error["code"] == "weights_unreadable"
    assert f"{weights}/model.safetensors" in error["message"]
