# SPDX-License-Identifier: Apache-2.0
"""Several models, one GPU: swaps never fail, waiting is visible, and crashes lose nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest

from tests.simulation import optimum, simulator, traces
from tests.simulation.workload import Rules, Workload

from .hosts import SETTINGS, Host, Stream, answer_of, chat_body, client, held_stream
from .leftovers import wait_for_nothing

MAIN = ("fake-a", "fake-b", "fake-c")
KILL_POINTS = (
    "start-armed",
    "start-created",
    "start-initialised",
    "start-scoped",
    "start-started",
    "ready-healthy",
    "ready-armed",
    "swap-evicted",
    "stop-begun",
    "stop-ended",
    "stop-removed",
    "stop-unscoped",
)
"""Every step at which a process of sparkd can be made to die (`sparkd/adapters/failpoints.py`)."""
FAULT_DROP_IN = "/run/systemd/system/sparkd.service.d/fault.conf"


def resident(host: Host) -> set[str]:
    """The models whose scopes are active."""
    prefix, suffix = "sparkd-model-", ".scope"
    states = host.user_unit_states()
    return {
        unit[len(prefix) : -len(suffix)]
        for unit, state in states.items()
        if unit.startswith(prefix) and state == "active"
    }


async def ask(key: str, model: str, text: str, **fields: object) -> str:
    async with client(key, timeout_s=100) as http:
        return answer_of(
            await http.post("/v1/chat/completions", json=chat_body(model, text, **fields))
        )


def starts(host: Host, since: str) -> list[str]:
    return [e["SPARKD_MODEL"] for e in host.journal("SPARKD_EVENT=model-starting", since=since)]


@contextmanager
def fault(host: Host, point: str) -> Iterator[None]:
    """A daemon that dies when it reaches the point, for as long as the block lasts."""
    host.run("systemctl", "stop", "sparkd.service")
    host.sh(f"mkdir -p {FAULT_DROP_IN.rpartition('/')[0]}")
    host.run("tee", FAULT_DROP_IN, input=f"[Service]\nEnvironment=SPARKD_FAULT={point}\n")
    host.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        host.run("rm", "-f", FAULT_DROP_IN)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "kill", "--signal=KILL", "sparkd.service", check=False)


def as_fast_as(trace: Workload, *, load_s: float, service_s: float) -> Workload:
    """The trace on a host that was never slower than that; a load has the stop before it in it."""
    (line,) = trace.lines
    requests = tuple(replace(request, service_s=service_s) for request in line.requests)
    models = tuple(replace(model, load_s=load_s, stop_s=0.0) for model in trace.models)
    return replace(trace, models=models, lines=(replace(line, requests=requests),))


def test_trace_of_three_models_takes_as_few_loads_and_waits_as_the_simulator_says(
    host: Host,
) -> None:
    """ABCABC..., worked off by 20 clients: whoever has an answer takes the next request."""
    rules = Rules(max_wait_s=5, min_residency_s=2)
    trace = traces.abc(rounds=20, clients=20, rules=rules)
    best = optimum.fewest_loads(trace)
    assert best == 5
    host.configure(SETTINGS.replace("min_residency: 0s", "min_residency: 2s"))
    key, cursor = host.key, host.cursor()
    jobs = iter(enumerate(request.model_id for request in trace.lines[0].requests))
    waits_s: list[float] = []
    services_s: list[float] = []
    loads_s: list[float] = []

    async def one(http: httpx.AsyncClient) -> None:
        for number, letter in jobs:
            began_s = time.monotonic()
            body = chat_body(f"fake-{letter.lower()}", f"n{number}")
            response = await http.post("/v1/chat/completions", json=body)
            assert answer_of(response) == f"echo: n{number}"
            waits_s.append(time.monotonic() - began_s)
            queued_s, load_s = (
                int(response.headers[f"x-sparkd-{name}-ms"]) / 1000 for name in ("queue", "load")
            )
            loads_s.append(load_s)
            services_s.append(waits_s[-1] - queued_s - load_s)

    async def all_clients() -> None:
        async with client(key, timeout_s=300) as http:
            await asyncio.gather(*(one(http) for _ in range(trace.lines[0].clients)))

    host.loop.run(all_clients(), 400)
    assert len(waits_s) == trace.requests
    as_seen = as_fast_as(trace, load_s=max(loads_s), service_s=max(services_s))
    most = max(best, simulator.run(as_seen).count.loads) + 1
    assert best <= len(starts(host, cursor)) <= most
    assert max(waits_s) < simulator.longest_wait_s(as_seen)


def test_busy_model_is_drained_once_the_other_has_waited_long_enough(host: Host) -> None:
    """`max_wait` is 5 s. An answer of fake-b takes four, and one more is asked for each second."""
    served = [Stream(host, "fake-b", tokens=40, pace_ms=100)]
    served[0].wait_first()
    began_s = time.monotonic()
    starving = Stream(host, "fake-c", tokens=1, pace_ms=0)

    def one_more() -> bool:
        stream = Stream(host, "fake-b", tokens=40, pace_ms=100)
        host.wait_until(lambda: stream.begun or starving.over, "one of the two is served")
        if stream.begun:
            served.append(stream)
        else:
            stream.leave()
        return stream in served

    while one_more():
        assert time.monotonic() - began_s < 60, "fake-c starves"
        time.sleep(1)
    starving.wait()
    assert starving.whole, starving.text
    assert time.monotonic() - began_s >= 5.0
    assert len(served) > 2
    for stream in served:
        stream.wait()
        assert stream.whole, stream.text


def test_hundred_clients_that_leave_the_queue_leave_nothing_behind(host: Host) -> None:
    host.configure(SETTINGS.replace("max_wait: 5s", "max_wait: 10m"))
    stream = held_stream(host, "fake-b")
    cursor, key = host.cursor(), host.key
    pid = int(host.sh("systemctl show -p MainPID --value sparkd.service"))
    before = len(host.run("ls", f"/proc/{pid}/fd").stdout.split())
    tasks_before = host.request("GET", "/debug/state").json()["tasks"]

    async def leave_early() -> None:
        async def one(number: int) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5 + number % 10 / 10):
                    await ask(key, "fake-c", "never mind")

        await asyncio.gather(*(one(number) for number in range(100)))

    host.loop.run(leave_early())
    host.wait_until(
        lambda: host.request("GET", "/debug/state").json()["queue"] == [], "all have left"
    )
    stream.go_on()
    stream.wait()
    assert stream.whole
    host.wait_until(
        lambda: len(host.run("ls", f"/proc/{pid}/fd").stdout.split()) <= before + 2,
        "descriptors are back",
    )
    host.wait_until(
        lambda: host.request("GET", "/debug/state").json()["tasks"] <= tasks_before,
        "tasks have ended",
    )
    assert starts(host, cursor) == []
    assert resident(host) == {"fake-b"}


def test_load_without_waiters_is_taken_back_where_the_settings_say_so(host: Host) -> None:
    host.configure(SETTINGS + "abandoned_loads: stop\n")
    with host.held_load("fake-b"):
        stream = Stream(host, "fake-b", tokens=1, pace_ms=0)
        host.wait_until(lambda: resident(host) == {"fake-b"}, "it loads")
        stream.leave()
        host.wait_until(lambda: resident(host) == set(), "the load is taken back")
        host.wait_until(lambda: host.containers() == [], "and its container")


def test_waiting_stream_gets_empty_chunks_and_then_its_response(host: Host) -> None:
    with host.held_load("fake-b"):
        stream = Stream(host, "fake-b", tokens=3, pace_ms=1)
        host.wait_until(lambda: '"delta": {}' in stream.text, "it gets a keep-alive")
    stream.wait()
    assert stream.whole, stream.text
    chunks = [json.loads(line[6:]) for line in stream.text.splitlines() if "data: {" in line]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(line.startswith("data: ") for line in stream.text.splitlines() if line)


def test_waiting_stream_that_asks_for_words_reads_what_it_waits_for(host: Host) -> None:
    with host.held_load("fake-b"):
        stream = Stream(host, "fake-b", tokens=3, pace_ms=1, keep_alive="comment")
        host.wait_until(lambda: "\n: sparkd loading fake-b" in f"\n{stream.text}", "it is told")
    stream.wait()
    assert stream.whole, stream.text
    comments = [line for line in stream.text.splitlines() if line.startswith(":")]
    assert all(": sparkd " in line for line in comments), stream.text


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "messages"])
def test_error_after_the_first_notice_is_an_event_of_the_dialect(host: Host, path: str) -> None:
    body = {
        **chat_body("fake-hang", stream=True),
        "prompt": "x",
        "input": "x",
        "max_tokens": 5,
    }
    response = host.request("POST", f"/v1/{path}", json=body)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    first = {
        "chat/completions": 'data: {"id": "chatcmpl-',
        "completions": 'data: {"id": "cmpl-',
        "responses": ": sparkd ",
        "messages": "event: ping\n",
    }
    assert response.text.startswith(first[path])
    data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    error = json.loads(data[-1])
    assert "load timeout" in error["error"]["message"]
    assert ("event: error" in response.text) == (path == "messages")


def test_client_that_reads_nothing_does_not_keep_others_from_their_model(host: Host) -> None:
    """`max_wait` is 5 s, and then the client has 10 s to take anything."""
    assert answer_of(host.chat("fake-b")) == "echo: hello"
    cursor, key = host.cursor(), host.key
    tokens = 600_000  # More than all buffers on the way hold.
    body = json.dumps(chat_body("fake-b", fake={"tokens": tokens})).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n"

    async def ask_and_read_nothing() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", 8009, limit=1024)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return writer

    writer = host.loop.run(ask_and_read_nothing())
    host.wait_until(lambda: host.engine_state("fake-b")["requests"] == 2, "it is asked")
    began_s = time.monotonic()
    assert answer_of(host.chat("fake-c", "me too")) == "echo: me too"
    assert time.monotonic() - began_s < 40
    (entry,) = host.entries(1, "SPARKD_REASON=client_stalled", since=cursor)
    assert entry["SPARKD_MODEL"] == "fake-b"
    host.loop.run(closed(writer))


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def test_warm_model_that_is_silent_keeps_its_stream_alive(host: Host) -> None:
    assert answer_of(host.chat("fake-b")) == "echo: hello"
    stream = Stream(host, "fake-b", tokens=3, pace_ms=1, first_token_ms=25_000)
    stream.wait()
    assert stream.whole, stream.text
    assert stream.text.count('"delta": {}, "finish_reason": null') == 2


def test_full_queue_refuses_with_a_true_retry_after_and_names_who_is_in_the_way(host: Host) -> None:
    host.configure(SETTINGS.replace("max_wait: 5s", "max_wait: 10m") + "queue_limit: 1\n")
    stream = held_stream(host, "fake-b")
    waiting = Stream(host, "fake-c", tokens=1, pace_ms=1)
    host.wait_until(lambda: host.request("GET", "/status").json()["queue"] != [], "one waits")
    refused = host.chat("fake-a")
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")
    assert error["requested"] == "fake-a"
    assert error["currentModel"]["name"] == "fake-b"
    assert 1 <= int(refused.headers["retry-after"]) == error["retryAfterSec"] <= 60
    assert refused.headers["x-busy-model"] == "fake-b"
    stream.go_on()
    stream.wait()
    waiting.wait()
    assert stream.whole
    assert waiting.whole


def test_state_holder_queue_deadline_and_memory_are_told_wherever_one_looks(host: Host) -> None:
    host.configure(SETTINGS.replace("max_wait: 5s", "max_wait: 10m"))
    stream = held_stream(host, "fake-b")
    waiter = Stream(host, "fake-c", tokens=1, pace_ms=1)
    host.wait_until(lambda: host.request("GET", "/status").json()["queue"] != [], "one waits")
    for path in ("/status", "/debug/state"):
        seen = host.request("GET", path).json()
        models = {model["id"]: model for model in seen["models"]}
        assert (models["fake-b"]["state"], models["fake-c"]["state"]) == ("busy", "queued")
        assert models["fake-a"]["state"] == "stopped"
        assert 300 < models["fake-b"]["idle_check_at"] - seen["now"] < 601
        assert [holder["model"] for holder in seen["gpu"]["holders"]] == ["fake-b"]
        (queued,) = seen["queue"]
        assert (queued["model"], queued["waiting"]) == ("fake-c", 1)
        assert queued["ages_s"] == [queued["oldest_s"]]
        assert 0 < queued["oldest_s"] < 300
        assert 0 < seen["memory"]["available_bytes"] < seen["memory"]["total_bytes"]
    status = host.sh("sparkctl status")
    assert "queue     1 for fake-c, the first since " in status
    assert "held by model fake-b" in status
    assert "GiB available, less 0.1 reserve" in status
    (shown,) = json.loads(host.sh("sparkctl ps --json"))
    assert (shown["id"], shown["state"], shown["in_use"]) == ("fake-b", "busy", True)
    assert shown["idle_check_at"] is not None
    stream.leave()
    waiter.wait()
    assert waiter.whole


def test_busy_reject_refuses_at_once_and_loads_nothing(host: Host) -> None:
    host.configure(SETTINGS + "busy: reject\n")
    answer_of(host.chat("fake-b"))
    refused = host.chat("fake-c")
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "busy"
    assert resident(host) == {"fake-b"}


def test_failed_start_backs_off_with_its_reason_until_an_admin_tries_again(host: Host) -> None:
    first = host.chat("fake-crash")
    assert first.status_code == 502
    cursor = host.cursor()
    again = host.chat("fake-crash")
    assert again.status_code == 502
    error = again.json()["error"]
    assert "code 3" in error["message"]
    assert "failed once, tried again in" in error["message"]
    assert again.headers["x-should-retry"] == "false"
    assert starts(host, cursor) == []
    host.run("sparkctl", "start", "fake-crash", check=False)
    assert starts(host, cursor) == ["fake-crash"]


def test_hung_model_is_killed_and_its_clients_are_told(host: Host) -> None:
    host.configure(SETTINGS + "hang_timeout: 5s\n")
    cursor = host.cursor()
    stream = Stream(host, "fake-b", tokens=100, pace_ms=20, stall_after_tokens=5)
    stream.wait()
    assert '"code": "upstream_lost"' in stream.text
    host.wait_until(lambda: host.journal("SPARKD_REASON=hung", since=cursor) != [], "it is told")
    assert answer_of(host.chat("fake-b", "back")) == "echo: back"


def test_reload_keeps_unchanged_models_and_retires_changed_ones_once_idle(host: Host) -> None:
    answer_of(host.chat("fake-util"))
    stream = held_stream(host, "fake-b")
    path = "/etc/sparkd/models.d/fake.yaml"
    text = host.run("cat", path).stdout
    entry = text.index("fake-b:")
    changed = text[:entry] + text[entry:].replace("--fake-listen, late", "--fake-listen, early", 1)
    assert changed != text
    with host.file(path, changed):
        host.run("systemctl", "reload", "sparkd.service")
        assert host.request("GET", "/status").status_code == 200
        assert resident(host) == {"fake-b", "fake-util"}
        stream.go_on()
        stream.wait()
        assert stream.whole
        host.wait_until(lambda: resident(host) == {"fake-util"}, "the changed one left once idle")
        answer_of(host.chat("fake-b"))
    host.run("systemctl", "reload", "sparkd.service")


def test_reload_while_requests_wait_answers_all_of_them(host: Host) -> None:
    path = "/etc/sparkd/models.d/fake.yaml"
    text = host.run("cat", path).stdout
    changed = text.replace("--fake-workers, 2", "--fake-workers, 1")
    assert changed != text
    host.configure(SETTINGS.replace("max_wait: 5s", "max_wait: 10m"))
    busy = held_stream(host, "fake-b")
    before = Stream(host, "fake-c", tokens=3, pace_ms=1)
    host.wait_until(lambda: host.request("GET", "/status").json()["queue"] != [], "one waits")
    with host.file(path, changed):
        host.run("systemctl", "reload", "sparkd.service")
        after = Stream(host, "fake-c", tokens=3, pace_ms=1)
        host.wait_until(
            lambda: host.request("GET", "/status").json()["queue"][0]["waiting"] == 2, "two wait"
        )
        busy.go_on()
        for stream in (busy, before, after):
            stream.wait()
            assert stream.whole, stream.text[-300:]
    host.run("systemctl", "reload", "sparkd.service")


def test_bad_configuration_is_refused_at_reload_and_the_old_one_stays(host: Host) -> None:
    answer_of(host.chat("fake-b"))
    cursor = host.cursor()

    def said() -> str:
        entries = host.journal("_SYSTEMD_UNIT=sparkd.service", since=cursor)
        return " ".join(str(entry["MESSAGE"]) for entry in entries)

    with host.file("/etc/sparkd/sparkd.yaml", "idle_exti: 5s\nmax_wait: soon\n"):
        host.run("systemctl", "reload", "sparkd.service")
        problems = ("sparkd.yaml:1: idle_exti", "sparkd.yaml:2: max_wait")
        host.wait_until(lambda: all(problem in said() for problem in problems), "both are told")
        answer_of(host.chat("fake-b"))


@pytest.mark.parametrize("point", KILL_POINTS)
def test_daemon_killed_at_any_step_loses_nothing(host: Host, point: str) -> None:
    answer_of(host.chat("fake-c"))
    # An answer would mean that the fault point was not reached.
    with fault(host, point), pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        host.chat("fake-a")
    assert answer_of(host.chat("fake-a", "after")) == "echo: after"
    # The idle timer ends it.
    wait_for_nothing(host)


def test_killed_start_that_nobody_asks_for_again_leaves_nothing(host: Host) -> None:
    """fake-hang: its load timer fires after 5 s of loading and its idle timeout."""
    with fault(host, "start-started"):
        with pytest.raises(Exception, match=r".*"):
            host.chat("fake-hang")
        host.run("systemctl", "stop", "sparkd.socket", "sparkd.service")
        host.wait_until(lambda: resident(host) == set(), "its load timer ends it", timeout_s=120)
        host.wait_until(lambda: host.run("ls", "/run/sparkd/models").stdout == "", "no directory")
    host.run("systemctl", "start", "sparkd.socket")
