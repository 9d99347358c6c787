# SPDX-License-Identifier: Apache-2.0
"""The workloads: what is asked of the subject, how often, and what is made of the answers.

Every comparison with the engine's own socket is made in the same run, in turns, and its figure is
the median of the rounds. Nothing here judges a figure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from threading import Event, Thread
from typing import Any

from .subject import MIB, BenchError, Subject
from .workload import (
    BUSY_S,
    COLD_STARTS,
    IDLE_S,
    MODEL,
    ROUNDS,
    SETTLE_S,
    SHORT_LIVED,
    SHORT_LIVED_IDLE_S,
    SINGLE_REQUESTS,
    STREAM_PACE_MS,
    STREAM_TOKENS,
    STREAMS,
    WARM_S,
)

Json = dict[str, Any]


def cold_start(subject: Subject) -> Json:
    """From connect, with the service inactive, to the first byte of /healthz; the memory then."""
    taken_ms = []
    for _ in range(COLD_STARTS):
        stop_daemon(subject)
        job = {"kind": "once", "target": subject.through_sparkd(), "expected": "ok"}
        result = subject.ask_generator({**job, "request": subject.health_request()})
        taken_ms.append(result["first_byte_ms"])
    time.sleep(SETTLE_S)
    rss_mib = subject.daemon_rss_bytes() / MIB
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
    """CPU time and wake-ups of the daemon while a model is resident and nobody asks."""
    time.sleep(SETTLE_S)
    cpu_s, wakeups = subject.daemon_cpu_s(), subject.daemon_wakeups()
    time.sleep(IDLE_S)
    return {
        "seconds": IDLE_S,
        "cpu_ms": (subject.daemon_cpu_s() - cpu_s) * 1e3,
        "wakeups": subject.daemon_wakeups() - wakeups,
        "rss_mib": subject.daemon_rss_bytes() / MIB,
    }


def requests(subject: Subject, connections: int) -> Json:
    """Small answers over so many connections; one connection has a number of requests instead."""
    job: Json = {
        "kind": "closed",
        "connections": connections,
        "request": subject.chat_request(MODEL),
        "expected": "echo: hello",
        "warm_s": WARM_S,
    }
    if connections == 1:
        job["requests"] = SINGLE_REQUESTS
    else:
        job["measure_s"] = BUSY_S
    rounds = [dict(_in_turns(subject, job, turn)) for turn in range(ROUNDS)]
    result: Json = {"rounds": rounds}
    for way in ("direct", "sparkd"):
        result[way] = {
            "per_s": median(each[way]["per_s"] for each in rounds),
            "p50_ms": median(each[way]["first_byte_ms"]["p50"] for each in rounds),
            "p99_ms": median(each[way]["first_byte_ms"]["p99"] for each in rounds),
        }
    result["cpu_s_per_1000"] = median(
        each["sparkd"]["daemon_cpu_s"] / each["sparkd"]["total"] * 1000 for each in rounds
    )
    result["kept_waiting_share"] = median(
        each["sparkd"]["daemon_kept_waiting_s"] / each["sparkd"]["seconds"] for each in rounds
    )
    for rank in ("p50", "p99"):
        result[f"added_{rank}_ms"] = median(
            each["sparkd"]["first_byte_ms"][rank] - each["direct"]["first_byte_ms"][rank]
            for each in rounds
        )
    return result


def streams(subject: Subject) -> Json:
    """Many paced streams begun at once."""
    fields = {"stream": True, "max_tokens": STREAM_TOKENS, "fake": {"pace_ms": STREAM_PACE_MS}}
    job = {
        "kind": "streams",
        "connections": STREAMS,
        "request": subject.chat_request(MODEL, **fields),
        "words": STREAM_TOKENS,
    }
    rounds = [dict(_in_turns(subject, job, turn)) for turn in range(ROUNDS)]
    result: Json = {"rounds": rounds}
    for way in ("direct", "sparkd"):
        result[way] = {
            "ttft_p50_ms": median(each[way]["ttft_ms"]["p50"] for each in rounds),
            "ttft_p99_ms": median(each[way]["ttft_ms"]["p99"] for each in rounds),
            "gap_p99_ms": median(each[way]["gap_ms"]["p99"] for each in rounds),
        }
    result["cpu_s_per_1000_chunks"] = median(
        each["sparkd"]["daemon_cpu_s"] / each["sparkd"]["events"] * 1000 for each in rounds
    )
    result["rss_max_mib"] = max(each["sparkd"]["rss_max_mib"] for each in rounds)
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
        due_at = subject.last_used_at(SHORT_LIVED) + SHORT_LIVED_IDLE_S
        scope, give_up_at = subject.scope(SHORT_LIVED), due_at + 30
        while scope.exists():
            if time.time() > give_up_at:
                raise BenchError(f"{SHORT_LIVED} is still there 30 s after its time was up")
            time.sleep(0.005)
        late_s.append(time.time() - due_at)
        time.sleep(SETTLE_S)
    return {"s": late_s, "median_s": median(late_s)}


def _in_turns(subject: Subject, job: Json, turn: int) -> Iterator[tuple[str, Json]]:
    """The same job both ways; which one is first changes from round to round."""
    ways = ("direct", "sparkd") if turn % 2 == 0 else ("sparkd", "direct")
    for way in ways:
        direct = way == "direct"
        target = subject.direct(MODEL) if direct else subject.through_sparkd()
        yield way, watched(subject, {**job, "target": target})


def watched(subject: Subject, job: Json) -> Json:
    """Run a job; add what it cost the daemon in CPU time and the most memory it had."""
    most, over = [subject.daemon_rss_bytes()], Event()

    def look() -> None:
        while not over.wait(0.1):
            most.append(subject.daemon_rss_bytes())

    watcher = Thread(target=look)
    cpu_s, kept_waiting_s = subject.daemon_cpu_s(), subject.daemon_kept_waiting_s()
    watcher.start()
    try:
        result = subject.ask_generator(job)
    finally:
        over.set()
        watcher.join()
    return {
        **result,
        "daemon_cpu_s": subject.daemon_cpu_s() - cpu_s,
        "daemon_kept_waiting_s": subject.daemon_kept_waiting_s() - kept_waiting_s,
        "rss_max_mib": max(most) / MIB,
    }
