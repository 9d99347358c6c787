# SPDX-License-Identifier: Apache-2.0
"""vLLM's sleep mode beside stopping and starting: times, what stays taken, and whether it is right.

Level 1 keeps the weights in the machine's memory, level 2 drops them and reads them again. The
answer after waking must be the one before, token for token. Spoken to on the engine's own socket:
sparkd has no part in it but the start.
"""

from __future__ import annotations

import json
import time
from statistics import median

from tests.system.hosts import Host, chat_body

from .readings import Json, ask, gpu_used_mib, scope_of

MODEL = "llama-8b-sleepy"
LIKE = "llama-8b"
ROUNDS = 3
TOKENS = 64
GIB = 1 << 30


def check(host: Host) -> Json:
    host.stop_models()
    base_mib = gpu_used_mib()
    # What was compiled for the one serves the other.
    cache = "/var/lib/sparkd/cache"
    host.sh(
        f"rm -rf {cache}/{MODEL}; [ ! -d {cache}/{LIKE} ] || cp -a {cache}/{LIKE} {cache}/{MODEL}"
    )
    begun = ask(host, MODEL, max_tokens=1)
    assert begun["status"] == 200, begun
    found: Json = {"gpu_base_mib": base_mib, "start_s": begun["seconds"]}
    before = _greedy(host)
    found["awake_gpu_mib"] = gpu_used_mib()
    found["awake_memory_gib"] = _memory_gib(host)
    found["same_answer_twice"] = _greedy(host) == before
    for level in (1, 2):
        rounds = []
        for _ in range(ROUNDS):
            rounds.append(_nap(host, level, before))
        found[f"level {level}"] = {
            "sleep_s": median(each["sleep_s"] for each in rounds),
            "wake_s": median(each["wake_s"] for each in rounds),
            "right": all(each["right"] for each in rounds),
            "rounds": rounds,
        }
    host.stop_models()
    return found


def _nap(host: Host, level: int, before: list[str]) -> Json:
    sleep_s = _post(host, f"/sleep?level={level}")
    asleep = {"gpu_mib": gpu_used_mib(), "memory_gib": _memory_gib(host)}
    began_s = time.monotonic()
    if level == 1:
        _post(host, "/wake_up")
    else:
        _post(host, "/wake_up?tags=weights")
        _post(host, "/collective_rpc", {"method": "reload_weights"})
        _post(host, "/wake_up?tags=kv_cache")
    wake_s = time.monotonic() - began_s
    after = _greedy(host)
    return {
        "sleep_s": sleep_s,
        "wake_s": round(wake_s, 2),
        "answer_s": round(time.monotonic() - began_s, 2),
        "right": after == before,
        **asleep,
    }


def _greedy(host: Host) -> list[str]:
    """The most probable answer, token by token, computed anew."""
    _post(host, "/reset_prefix_cache")
    body = chat_body(MODEL, "Once upon a time", max_tokens=TOKENS, temperature=0, logprobs=True)
    answer = _engine(host, "/v1/chat/completions", {**body, "ignore_eos": True})
    content = json.loads(answer)["choices"][0]["logprobs"]["content"]
    return [f"{each['token']} {each['logprob']:.4f}" for each in content]


def _post(host: Host, path: str, body: Json | None = None) -> float:
    began_s = time.monotonic()
    _engine(host, path, body)
    return round(time.monotonic() - began_s, 2)


def _engine(host: Host, path: str, body: Json | None) -> str:
    socket = f"/run/sparkd/models/{MODEL}/api.sock"
    sent = ["--json", json.dumps(body)] if body is not None else ["--request", "POST"]
    return host.run(
        *("curl", "-sS", "--fail-with-body", "--max-time", "180", "--unix-socket", socket),
        *(*sent, f"http://model{path}"),
        timeout_s=200,
    ).stdout


def _memory_gib(host: Host) -> float:
    current = int((scope_of(host, MODEL) / "memory.current").read_text())
    return round(current / GIB, 1)
