# SPDX-License-Identifier: Apache-2.0
"""The main job with nothing fake: real vLLM on the CPU answers, streams, and leaves when idle."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .hosts import Host, answer_of, chat_body, client

MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"
SETTINGS = "idle_exit: 3s\nmemory_reserve: 64MiB\nmemory_floor: 32MiB\ndrop_caches_below: 32MiB\n"


CATALOG = "/etc/sparkd/models.d/smollm2.yaml"
INSIDE = "/opt/inside/sparkd_sleep.py"
WITH_ROUTES = f"""
    files: {{{INSIDE}: {{path: /usr/lib/sparkd/sparkd/in_container/sparkd_sleep.py}}}}
    env: {{PYTHONPATH: {INSIDE.rpartition("/")[0]}}}
    args:
      - --middleware
      - sparkd_sleep.SleepRoutes
"""
"""What `evict: sleep` gives a model, but the option that vLLM refuses on a CPU."""


@pytest.fixture(scope="module")
def served(vllm: Host) -> Iterator[Host]:
    vllm.configure(SETTINGS)
    entry = vllm.run("cat", CATALOG).stdout.replace("\n    args:\n", WITH_ROUTES)
    entry = entry.replace("idle_timeout: 20s", "idle_timeout: 1h")
    assert "sparkd_sleep" in entry
    assert "idle_timeout: 1h" in entry
    with vllm.file(CATALOG, entry):
        vllm.run("systemctl", "stop", "sparkd.service")
        yield vllm
        vllm.stop_models()


@pytest.fixture(scope="module")
def first_answer(served: Host) -> str:
    """Waits for the cold start once for all tests here."""
    response = served.chat(MODEL, QUESTION, temperature=0, max_tokens=20, timeout_s=240)
    return answer_of(response)


def test_real_model_answers_right(first_answer: str) -> None:
    assert "Paris" in first_answer


def test_phases_of_a_real_load_are_told(served: Host, first_answer: str) -> None:
    events = served.journal("SPARKD_EVENT=load-progress", f"SPARKD_MODEL={MODEL}")
    told = [(event["SPARKD_PHASE"], event.get("SPARKD_PERCENT")) for event in events]
    assert ("weights", "100") in told
    assert ("server", None) in told


def test_real_model_runs_in_its_scope_without_a_network(served: Host, first_answer: str) -> None:
    assert served.user_unit_states()[f"sparkd-model-{MODEL}.scope"] == "active"
    inspected = served.run("podman", "inspect", f"sparkd-model-{MODEL}", user="sparkd").stdout
    assert json.loads(inspected)[0]["HostConfig"]["NetworkMode"] == "none"
    assert served.locked("/run/sparkd/gpu.lock")


def test_soak_of_the_real_model_makes_prompts_to_measure_and_finds_the_end_of_its_context(
    served: Host, first_answer: str
) -> None:
    words = ("--tiers", "400,2100", "--concurrency", "2", "--answer", "8")
    done = served.run("sparkctl", "soak", "--json", MODEL, *words, check=False, timeout_s=280)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["highest_clean"], report["first_failing"]) == (400, 2100)
    clean, failing = report["tiers"]
    assert 370 < clean["prompt_tokens"] <= 400
    assert "context" in failing["problem"]


def test_real_stream_comes_in_pieces_and_ends_whole(served: Host, first_answer: str) -> None:
    key = served.key

    async def stream() -> list[str]:
        body = chat_body(MODEL, QUESTION, stream=True, temperature=0, max_tokens=20)
        lines = []
        async with (
            client(key) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    lines.append(line.removeprefix("data: "))
        return lines

    lines = served.loop.run(stream())
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1]]
    assert "".join(pieces) == first_answer
    assert len([piece for piece in pieces if piece]) > 3


def test_real_engine_refuses_a_bad_request_in_its_own_words(
    served: Host, first_answer: str
) -> None:
    refused = served.chat(MODEL, QUESTION, temperature="warm")
    assert refused.status_code == 400
    assert "temperature" in refused.text


def engine(host: Host, target: str) -> str:
    """What the real engine's own server answers to a POST."""
    socket = f"/run/sparkd/models/{MODEL}/api.sock"
    words = ("curl", "-sS", "--max-time", "100", "--request", "POST", "--unix-socket", socket)
    return host.run(*words, f"http://model{target}").stdout


@pytest.mark.parametrize("level", [1, 2])
def test_real_engine_lets_go_of_the_gpu_while_it_sleeps_and_is_the_same_afterwards(
    served: Host, first_answer: str, level: int
) -> None:
    lane = "/run/sparkd/lane.lock"
    assert engine(served, f"/sparkd/sleep?level={level}") == f'{{"level": {level}}}'
    assert not served.locked(lane)
    assert engine(served, "/sparkd/wake") == '{"level": 0}'
    assert served.locked(lane)
    again = served.chat(MODEL, QUESTION, temperature=0, max_tokens=20)
    assert answer_of(again) == first_answer


def test_prompt_and_answer_of_the_real_model_reach_no_log(served: Host, first_answer: str) -> None:
    cursor = served.cursor()
    planted = "xylophone-marmalade-4711"
    answer_of(served.chat(MODEL, f"Say {planted}", max_tokens=5))
    said = json.dumps(served.journal(since=cursor))
    assert "chat/completions" in said
    assert planted not in said
    assert served.key not in said


def test_real_model_leaves_when_idle_and_the_daemon_after_it(
    served: Host, first_answer: str
) -> None:
    catalog = "/etc/sparkd/models.d/smollm2.yaml"
    text = served.run("cat", catalog).stdout
    served.run("systemctl", "stop", "sparkd.service")
    served.stop_models()
    with served.file(catalog, text.replace("idle_timeout: 1h", "idle_timeout: 5s")):
        assert "Paris" in answer_of(
            served.chat(MODEL, QUESTION, temperature=0, max_tokens=20, timeout_s=240)
        )
        served.wait_until(
            lambda: not served.locked("/run/sparkd/gpu.lock"), "vLLM has left the GPU", 120
        )
        served.wait_until(lambda: served.containers() == [], "its container is gone")
        served.wait_until(
            lambda: served.system_unit_states().get("sparkd.service", "inactive") == "inactive",
            "the daemon has left too",
            timeout_s=120,
        )
        assert served.system_unit_states()["sparkd.socket"] == "active"
