# SPDX-License-Identifier: Apache-2.0
"""`evict: sleep` as a client meets it: two models that sleep for each other, asked in turns.

What must hold: nothing is started again, whoever sleeps has let go of the lock, gives the GPU's
memory back but for a rest, and says after waking what it said before, token for token.
"""

from __future__ import annotations

from statistics import median

from tests.system.hosts import Host, chat_body

from .readings import Json, ask, gpu_used_mib, running

MODELS = ("llama-1b-sleeper", "llama-8b-sleeper")
LIKE = {"llama-1b-sleeper": "llama-1b", "llama-8b-sleeper": "llama-8b"}
ROUNDS = 3
TOKENS = 64


def check(host: Host) -> Json:
    host.stop_models()
    for model, like in LIKE.items():
        _take_over_cache(host, like, model)
    base_mib, cursor = gpu_used_mib(), host.cursor()
    found: Json = {"gpu_base_mib": base_mib}
    before: dict[str, list[str]] = {}
    for model in MODELS:
        started = ask(host, model, "hello", max_tokens=1)
        assert started["status"] == 200, started
        before[model] = greedy(host, model)
        found[model] = {"start_s": started["seconds"], "rounds": []}
    for _ in range(ROUNDS):
        for model in MODELS:
            found[model]["rounds"].append(_woken(host, model, before[model]))
    for model in MODELS:
        rounds = found[model]["rounds"]
        found[model]["answer_s"] = median(each["answer_s"] for each in rounds)
        assert all(each["right"] for each in rounds), found
    assert len(host.journal("SPARKD_EVENT=model-starting", since=cursor)) == len(MODELS)
    found["foreign program while all sleep"] = _foreign(host)
    host.stop_models()
    return found


def greedy(host: Host, model: str) -> list[str]:
    """The most probable answer with its probabilities; the prompt must not be in a prefix cache."""
    body = chat_body(
        model, "Once upon a time", max_tokens=TOKENS, temperature=0, logprobs=True, ignore_eos=True
    )
    answer = host.request("POST", "/v1/chat/completions", json=body, timeout_s=200)
    content = answer.json()["choices"][0]["logprobs"]["content"]
    return [f"{each['token']} {each['logprob']:.4f}" for each in content]


def _take_over_cache(host: Host, like: str, model: str) -> None:
    """What was compiled for the one serves the other."""
    cache = "/var/lib/sparkd/cache"
    have = f"[ ! -d {cache}/{like} ] || cp -a {cache}/{like} {cache}/{model}"
    host.sh(f"rm -rf {cache}/{model}; {have}")


def _woken(host: Host, model: str, before: list[str]) -> Json:
    """Ask for the one that sleeps; the other one has to sleep for it."""
    other = next(each for each in MODELS if each != model)
    answer = ask(host, model, "hello", max_tokens=1)
    assert answer["status"] == 200, answer
    states = {each: running(host)[each]["state"] for each in MODELS}
    assert states == {model: "ready", other: "sleeping"}, states
    # A sleep empties the prefix cache, so the answer is computed anew, as the first one was.
    right = greedy(host, model) == before
    return {"answer_s": answer["seconds"], "gpu_mib": gpu_used_mib(), "right": right}


def _foreign(host: Host) -> Json:
    """What others find when the awake one has been stopped and the other still sleeps."""
    awake, asleep = MODELS[-1], MODELS[0]
    host.run("sparkctl", "stop", awake)
    host.run("flock", "-n", "/run/sparkd/gpu.lock", "true")
    assert running(host)[asleep]["state"] == "sleeping"
    return {"gpu_mib": gpu_used_mib()}
