# SPDX-License-Identifier: Apache-2.0
"""How long a model takes from the request that wants it to its answer: cold, warm, and in a swap.

Cold is with empty caches of the engine and of the kernel, as after the installation; warm with what
the engine keeps in the cache directory that sparkd mounts. The answer has one token, so it costs
nothing beside the start.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

from tests.system.hosts import Host

from .carry import say
from .readings import Json, ask, gpu_used_mib, until

MODELS = ("llama-1b", "llama-8b")
ROUNDS = 3
_READY = re.compile(r"model \S+ is ready after ([\d.]+) s")
# What vLLM says about the parts of its start, and the name of each.
_PARTS = {
    "weights_s": re.compile(r"Loading weights took ([\d.]+) seconds"),
    "compile_s": re.compile(r"torch\.compile took ([\d.]+) s"),
    "engine_s": re.compile(r"init engine .* took ([\d.]+) s"),
}


def check(host: Host) -> Json:
    host.stop_models()
    base_mib = gpu_used_mib()
    found: Json = {}
    for model in MODELS:
        cold = []
        for _ in range(ROUNDS):
            host.sh(f"rm -rf /var/lib/sparkd/cache/{model}")
            drop_page_cache()
            cold.append(start(host, model, base_mib))
        found[model] = {"cold": _summary(cold)}
    for model, swaps in _swaps(host).items():
        found[model]["swapped in, warm"] = _summary(swaps)
    host.stop_models()
    return found


def start(host: Host, model: str, base_mib: int) -> Json:
    """Stop what runs, then ask for the model."""
    host.stop_models()
    until(lambda: gpu_used_mib() <= base_mib, "the GPU is free")
    return _asked(host, model)


def _asked(host: Host, model: str) -> Json:
    cursor = host.cursor()
    answer = ask(host, model, "hello", max_tokens=1)
    assert answer["status"] == 200, answer
    said = [str(entry.get("MESSAGE", "")) for entry in host.journal(since=cursor)]
    ready = next(float(found[1]) for line in said if (found := _READY.search(line)))
    parts = {
        name: float(found[1])
        for name, pattern in _PARTS.items()
        for line in said
        if (found := pattern.search(line))
    }
    found: Json = {"answer_s": answer["seconds"], "ready_s": ready, **parts}
    say(f"{model}: {found}")
    return found


def _swaps(host: Host) -> dict[str, list[Json]]:
    """Each model is asked for while the other one is resident and idle, back and forth."""
    host.stop_models()
    _asked(host, MODELS[1])
    found: dict[str, list[Json]] = {model: [] for model in MODELS}
    for _ in range(ROUNDS):
        for model in MODELS:
            found[model].append(_asked(host, model))
    return found


def _summary(starts: list[Json]) -> Json:
    return {
        "answer_s": median(each["answer_s"] for each in starts),
        "ready_s": median(each["ready_s"] for each in starts),
        "rounds": starts,
    }


def drop_page_cache() -> None:
    """Have the machine read weights and programs from its disk again."""
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
