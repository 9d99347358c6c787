# SPDX-License-Identifier: Apache-2.0
"""What the gateway costs in front of a real engine: first token, tokens per second, CPU.

The same streams through sparkd and on the engine's own socket, in turns, in one run. All have the
same prompt, which the engine has in its prefix cache from the first round on, which does not count:
so the two ways differ in nothing but the gateway.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from tests.system.hosts import Guest, Host, chat_body

from .carry import ROOT
from .limits import cpu_s
from .readings import MIB, Json, ask, daemon_pid, root_of, scope_of, service_of

MODEL = "llama-1b"
TOKENS = 1024
ROUNDS = 5
STREAMS = (1, 32, 128)
REPEATS = {1: 4}
"""One stream is over soon: it is asked for so many times a round."""
PORT = 8009


def check(host: Host) -> Json:
    host.stop_models()
    assert ask(host, MODEL, max_tokens=4)["status"] == 200
    found: Json = {"model": MODEL, "tokens": TOKENS, "rounds": ROUNDS}
    with generator(host) as process:
        for count in STREAMS:
            found[str(count)] = _compare(host, process, count)
    host.stop_models()
    return found


@contextmanager
def generator(host: Host) -> Iterator[subprocess.Popen[str]]:
    """The load generator, in the host's network."""
    leader = Guest(host.name).leader_pid()
    enter = ["nsenter", f"--net=/proc/{leader}/ns/net", sys.executable, "-m", "tests.gpu.load"]
    with subprocess.Popen(
        enter, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _compare(host: Host, process: subprocess.Popen[str], count: int) -> Json:
    socket = root_of(host) / f"run/sparkd/models/{MODEL}/api.sock"
    ways: dict[str, Json] = {"direct": {"unix": str(socket)}, "sparkd": {"port": PORT}}
    request = _request(host)
    rounds = []
    for number in range(ROUNDS + 1):
        turn = list(ways) if number % 2 else list(reversed(ways))
        this: Json = {}
        for way in turn:
            job = {"target": ways[way], "connections": count, "request": request, "tokens": TOKENS}
            this[way] = _watched(host, process, job, REPEATS.get(count, 1))
        # The first round warms both ways up.
        if number:
            rounds.append(this)
    return {**_summary(rounds), "rounds": rounds}


def _summary(rounds: list[Json]) -> Json:
    result: Json = {}
    for way in ("direct", "sparkd"):
        result[way] = {
            "ttft_p50_ms": median(each[way]["ttft_p50_ms"] for each in rounds),
            "ttft_p99_ms": median(each[way]["ttft_p99_ms"] for each in rounds),
            "gap_p99_ms": median(each[way]["gap_p99_ms"] for each in rounds),
            "tokens_per_s": median(each[way]["tokens_per_s"] for each in rounds),
        }
    for rank in ("p50", "p99"):
        name = f"ttft_{rank}_ms"
        result[f"added_{name}"] = median(e["sparkd"][name] - e["direct"][name] for e in rounds)
    result["tokens_lost_percent"] = median(
        100 * (1 - each["sparkd"]["tokens_per_s"] / each["direct"]["tokens_per_s"])
        for each in rounds
    )
    for name in ("daemon_cpu_share", "daemon_rss_mib", "daemon_cpu_s_per_1000_events"):
        result[name] = median(each["sparkd"][name] for each in rounds)
    return result


def _watched(host: Host, process: subprocess.Popen[str], job: Json, repeats: int) -> Json:
    """Run a job some times and give the medians, with what it cost the gateway."""
    service, scope = service_of(host), scope_of(host, MODEL)
    cpu, engine_cpu = cpu_s(service), cpu_s(scope)
    results = [_ask(process, job) for _ in range(repeats)]
    seconds = sum(each["seconds"] for each in results)
    used, events = cpu_s(service) - cpu, sum(each["events"] for each in results)
    return {
        "ttft_p50_ms": median(each["ttft_ms"]["p50"] for each in results),
        "ttft_p99_ms": max(each["ttft_ms"]["p99"] for each in results),
        "gap_p99_ms": median(each["gap_ms"]["p99"] for each in results),
        "tokens_per_s": sum(each["tokens"] for each in results) / seconds,
        "seconds": seconds,
        "events": events,
        "daemon_cpu_share": used / seconds,
        "daemon_cpu_s_per_1000_events": used / events * 1000,
        "daemon_rss_mib": _rss_mib(host),
        "engine_cpu_share": (cpu_s(scope) - engine_cpu) / seconds,
    }


def _ask(process: subprocess.Popen[str], job: Json) -> Json:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    result: Json = json.loads(process.stdout.readline())
    assert not result["wrong"], f"{result['wrong']} wrong answers: {result['wrong_first']}"
    return result


def _rss_mib(host: Host) -> float:
    status = (root_of(host) / f"proc/{daemon_pid(host)}/status").read_text()
    return (
        int(next(line.split()[1] for line in status.splitlines() if "VmRSS" in line)) * 1024 / MIB
    )


def _request(host: Host) -> str:
    body = json.dumps(
        chat_body(
            MODEL,
            "Count the words of this sentence, then write about each of them at length.",
            stream=True,
            max_tokens=TOKENS,
            ignore_eos=True,
            temperature=0.8,
            stream_options={"include_usage": True},
        )
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1",
        "host: 127.0.0.1:8009",
        f"authorization: Bearer {host.key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    )
    return "\r\n".join((*head, "", body))
