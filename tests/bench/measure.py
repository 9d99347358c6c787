# SPDX-License-Identifier: Apache-2.0
"""The workloads: what is asked of the subject, how often, and what is made of the answers.

Every way to the engine is taken in the same run, in turns, and a figure is the median of the
rounds. Nothing here judges a figure.
"""

from __future__ import annotations

import time
from statistics import median
from threading import Event, Thread
from typing import Any

from .subject import MIB, BenchError, Subject, Way
from .workload import (
    BIG_REQUESTS,
    BUSY_S,
    COLD_STARTS,
    CROWDED_STREAMS,
    IDLE_S,
    MODEL,
    ROUNDS,
    SETTLE_S,
    SHORT_LIVED,
    SHORT_LIVED_IDLE_S,
    SINGLE_REQUESTS,
    STREAM_TOKENS,
    WARM_S,
)

Json = dict[str, Any]


def cold_start(subject: Subject) -> Json:
    """From connect, with the service inactive, to the first byte of /healthz; the memory then."""
    taken_ms = []
    for _ in range(COLD_STARTS):
        stop_daemon(subject)
        job = {"kind": "once", "target": subject.sparkd.target, "expected": "ok"}
        result = subject.ask_generator({**job, "request": subject.health_request()})
        taken_ms.append(result["first_byte_ms"])
    time.sleep(SETTLE_S)
    rss_mib = subject.sparkd.rss_bytes() / MIB
    return {"ms": taken_ms, "median_ms": median(taken_ms), "rss_mib": rss_mib}


def stop_daemon(subject: Subject) -> None:
    """Stop the service and leave the socket. Raises BenchError if that is not what results."""
    subject.host.run("systemctl", "stop", "sparkd.service")
    states = subject.host.sh("systemctl is-active sparkd.socket sparkd.service", check=False)
    if states.split() != ["active", "inactive"]:
        raise BenchError(f"socket and service are {states.split()} after a stop of the service")


def load_model(subject: Subject) -> Json:
    """The first request for a stopped model, whole; then every process gets its core."""
    began_s = time.monotonic()
    answer = subject.host.chat(MODEL)
    taken_s = time.monotonic() - began_s
    if answer.status_code != 200:
        raise BenchError(f"{MODEL} answered {answer.status_code}: {answer.text}")
    subject.pin(MODEL)
    return {"first_answer_s": taken_s}


def idle_cost(subject: Subject) -> Json:
    """CPU time, wake-ups and memory of each gateway while a model is resident and nobody asks."""
    time.sleep(SETTLE_S)
    before = {way.name: (way.cpu_s(), way.wakeups()) for way in subject.ways}
    time.sleep(IDLE_S)
    return {
        way.name: {
            "cpu_ms": (way.cpu_s() - before[way.name][0]) * 1e3,
            "wakeups": way.wakeups() - before[way.name][1],
            "rss_mib": way.rss_bytes() / MIB,
        }
        for way in subject.ways
    }


def requests(subject: Subject, connections: int, *, body_bytes: int = 0) -> Json:
    """Small answers over so many connections; one connection has a number of requests instead."""
    padding = {"user": "x" * body_bytes} if body_bytes else {}
    job: Json = {
        "kind": "closed",
        "connections": connections,
        "request": subject.chat_request(MODEL, **padding),
        "expected": "echo: hello",
        "warm_s": WARM_S,
    }
    if connections > 1:
        job["measure_s"] = BUSY_S
    else:
        job["requests"] = BIG_REQUESTS if body_bytes else SINGLE_REQUESTS
    rounds = [_in_turns(subject, job, turn, subject.ways) for turn in range(ROUNDS)]
    result: Json = {"rounds": rounds}
    for way in subject.ways:
        mine = [each[way.name] for each in rounds]
        result[way.name] = {
            "per_s": median(each["per_s"] for each in mine),
            "cpu_s_per_1000": median(each["cpu_s"] / each["total"] * 1000 for each in mine),
            "kept_waiting_share": median(each["kept_waiting_s"] / each["seconds"] for each in mine),
        }
        for rank in ("p50", "p99"):
            result[way.name][f"{rank}_ms"] = median(each["first_byte_ms"][rank] for each in mine)
            result[way.name][f"added_{rank}_ms"] = median(
                each[way.name]["first_byte_ms"][rank] - each["direct"]["first_byte_ms"][rank]
                for each in rounds
            )
    return result


def streams(subject: Subject, connections: int, pace_ms: int) -> Json:
    """Many paced streams begun at once."""
    fields = {"stream": True, "max_tokens": STREAM_TOKENS, "fake": {"pace_ms": pace_ms}}
    job = {
        "kind": "streams",
        "connections": connections,
        "request": subject.chat_request(MODEL, **fields),
        "words": STREAM_TOKENS,
    }
    ways = tuple(way for way in subject.ways if not way.slow or connections < CROWDED_STREAMS)
    rounds = [_in_turns(subject, job, turn, ways) for turn in range(ROUNDS)]
    result: Json = {"rounds": rounds, "offered_per_s": connections * 1000 / pace_ms}
    for way in ways:
        mine = [each[way.name] for each in rounds]
        result[way.name] = {
            "ttft_p50_ms": median(each["ttft_ms"]["p50"] for each in mine),
            "ttft_p99_ms": median(each["ttft_ms"]["p99"] for each in mine),
            "gap_p99_ms": median(each["gap_ms"]["p99"] for each in mine),
            "chunks_per_s": median(each["events"] / each["seconds"] for each in mine),
            "cpu_s_per_1000": median(each["cpu_s"] / each["events"] * 1000 for each in mine),
            "rss_max_mib": max(each["rss_max_mib"] for each in mine),
        }
    return result


def idle_stop(subject: Subject) -> Json:
    """From the moment at which an unused model's time is up to the end of its scope."""
    # A model that must make room first stays for a while.
    subject.host.stop_models()
    late_s = []
    for _ in range(ROUNDS):
        answer = subject.host.chat(SHORT_LIVED)
        if answer.status_code != 200:
            raise BenchError(f"{SHORT_LIVED} answered {answer.status_code}: {answer.text}")
        due_s = subject.last_used_s(SHORT_LIVED) + SHORT_LIVED_IDLE_S
        scope, give_up_s = subject.scope(SHORT_LIVED), due_s + 30
        while scope.exists():
            if time.monotonic() > give_up_s:
                raise BenchError(f"{SHORT_LIVED} is still there 30 s after its time was up")
            time.sleep(0.005)
        late_s.append(time.monotonic() - due_s)
        time.sleep(SETTLE_S)
    return {"s": late_s, "median_s": median(late_s)}


def _in_turns(subject: Subject, job: Json, turn: int, ways: tuple[Way, ...]) -> Json:
    """The same job by every way; which one is first changes from round to round."""
    first = turn % len(ways)
    turned = ways[first:] + ways[:first]
    return {way.name: watched(subject, way, {**job, "target": way.target}) for way in turned}


def watched(subject: Subject, way: Way, job: Json) -> Json:
    """Run a job; add what it cost the gateway in CPU time, and the most memory it had."""
    most, over = [way.rss_bytes()], Event()

    def look() -> None:
        while not over.wait(0.1):
            most.append(way.rss_bytes())

    watcher = Thread(target=look)
    cpu_s, kept_waiting_s = way.cpu_s(), way.kept_waiting_s()
    watcher.start()
    try:
        result = subject.ask_generator(job)
    finally:
        over.set()
        watcher.join()
    return {
        **result,
        "cpu_s": way.cpu_s() - cpu_s,
        "kept_waiting_s": way.kept_waiting_s() - kept_waiting_s,
        "rss_max_mib": max(most) / MIB,
    }
