# SPDX-License-Identifier: Apache-2.0
"""How far a load is, by lines as the engines write them."""

from __future__ import annotations

import time
from functools import reduce

from sparkd.core.engine.load_phase import LoadProgress, Phase, advanced

VLLM = """\
(EngineCore pid=97) INFO 11-20 09:12:01 [core.py:93] Initializing a V1 LLM engine (v0.11.0)
(EngineCore pid=97) INFO 11-20 09:12:08 [gpu_model_runner.py:2602] Starting to load model /m...
Loading safetensors checkpoint shards:   0% Completed | 0/3 [00:00<?, ?it/s]
Loading safetensors checkpoint shards:  33% Completed | 1/3 [00:07<00:14,  7.2s/it]
Loading safetensors checkpoint shards: 100% Completed | 3/3 [00:21<00:00,  7.0s/it]
(EngineCore pid=97) INFO 11-20 09:12:30 [default_loader.py:267] Loading weights took 21.3 seconds
(EngineCore pid=97) INFO 11-20 09:12:41 [backends.py:559] Dynamo bytecode transform time: 6.41 s
(EngineCore pid=97) INFO 11-20 09:12:55 [monitor.py:34] torch.compile takes 20.2 s in total
(EngineCore pid=97) INFO 11-20 09:12:57 [gpu_worker.py:298] Available KV cache memory: 63.1 GiB
Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|####      | 27/67 [00:02<00:03]
(EngineCore pid=97) INFO 11-20 09:13:05 [gpu_model_runner.py:3480] Graph capturing finished in 6 s
(EngineCore pid=97) INFO 11-20 09:13:05 [core.py:210] init engine (profile, create kv cache) took 9
(APIServer pid=1) INFO 11-20 09:13:06 [api_server.py:1912] Starting vLLM API server 0 on unix:/x
INFO:     Application startup complete.""".splitlines()
SGLANG = """\
[2026-11-20 09:12:08] Load weight begin. avail mem=110.22 GB
Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.2s/it]
[2026-11-20 09:12:12] Load weight end. type=Qwen3ForCausalLM, avail mem=108.4 GB
[2026-11-20 09:12:13] KV Cache is allocated. #tokens: 100000
[2026-11-20 09:12:14] Capture cuda graph begin. This can take up to several minutes.
[2026-11-20 09:12:20] Capture cuda graph end. Time elapsed: 6.0 s.
[2026-11-20 09:12:22] The server is fired up and ready to roll!""".splitlines()


def walk(lines: list[str]) -> list[str]:
    """The progress after each line that changes it."""
    steps: list[LoadProgress] = [LoadProgress()]
    for line in lines:
        step = advanced(steps[-1], line)
        if step is not steps[-1]:
            steps.append(step)
    return [step.text for step in steps]


def test_load_of_vllm_goes_through_its_phases() -> None:
    assert walk(VLLM) == [
        *("starting", "weights", "weights 33 %", "weights 100 %", "compile", "kv-cache"),
        *("graph-capture 40 %", "graph-capture 100 %", "server"),
    ]


def test_load_of_sglang_goes_through_its_phases() -> None:
    assert walk(SGLANG) == [
        *("starting", "weights", "weights 50 %", "weights 100 %", "kv-cache"),
        *("graph-capture", "graph-capture 100 %", "server"),
    ]


def test_line_of_an_earlier_phase_changes_nothing() -> None:
    late = reduce(advanced, VLLM, LoadProgress())
    assert reduce(advanced, VLLM, late) is late


def test_percentage_never_falls() -> None:
    half = advanced(LoadProgress(), "Loading safetensors checkpoint shards:  50% Completed | 1/2")
    again = advanced(half, "Loading safetensors checkpoint shards:   0% Completed | 0/2")
    assert again.percent == 50


def test_line_that_says_nothing_changes_nothing() -> None:
    progress = LoadProgress(phase=Phase.WEIGHTS, percent=10)
    assert advanced(progress, "INFO: something else: 50% of the time") is progress


def test_nonsense_percentage_is_the_whole() -> None:
    line = "Loading pt checkpoint shards: 730% Completed"
    assert advanced(LoadProgress(), line).percent == 100


def test_last_state_of_a_progress_bar_counts() -> None:
    bar = "\r".join(f"Loading safetensors checkpoint shards: {n:3}%" for n in range(0, 60, 10))
    assert walk([bar + "\r"]) == ["starting", "weights 50 %"]


def test_longest_line_is_read_in_a_moment() -> None:
    began_s = time.thread_time()
    advanced(LoadProgress(), "Loading " * (1 << 17))
    assert time.thread_time() - began_s < 0.1
