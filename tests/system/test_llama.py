# SPDX-License-Identifier: Apache-2.0
"""An engine that is not vLLM: llama.cpp, which the catalog names by its command, holds the GPU lock
and answers as any other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nspawn_host import furnish
from nspawn_host.guest import Guest

from .hosts import ROOT, Host, answer_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

MODEL = "smollm2-135m-gguf"


@pytest.fixture
def llama(host: Host) -> Iterator[Host]:
    """A host with llama.cpp beside the fake engine."""
    guest, engines = Guest(host.name), ROOT / "tests/engines"
    if host.run(
        "podman", "image", "exists", "localhost/sparkd-llama-cpp", user="sparkd", check=False
    ).returncode:
        furnish.load_image(guest, built("llama"))
    entry = (engines / "catalog/llama.yaml").read_text()
    try:
        furnish.place_weights(guest, built("gguf"))
        with host.file("/etc/sparkd/models.d/llama.yaml", entry):
            host.run("systemctl", "stop", "sparkd.service")
            yield host
            host.stop_models()
    finally:
        host.run("rm", "-rf", f"/var/lib/sparkd/models/{MODEL}")


def built(what: str) -> Path:
    """What tests/engines/build makes, out of the cache if it is there."""
    build = [str(ROOT / "tests/engines/build"), what]
    done = subprocess.run(build, check=True, stdout=subprocess.PIPE, text=True, timeout=900)
    return Path(done.stdout.splitlines()[-1])


def test_cold_request_to_another_engine_is_answered_and_it_holds_the_gpu_lock(
    llama: Host,
) -> None:
    question = "Which city is the capital of France? Answer in one word."
    answer = answer_of(llama.chat(MODEL, question, temperature=0, max_tokens=20, timeout_s=240))
    assert "Paris" in answer
    assert llama.locked("/run/sparkd/gpu.lock")
    assert llama.user_unit_states()[f"sparkd-model-{MODEL}.scope"] == "active"
    assert llama.run("sparkctl", "run", MODEL, question).stdout.strip()
    llama.run("sparkctl", "stop", MODEL)
    llama.wait_until(lambda: not llama.locked("/run/sparkd/gpu.lock"), "the GPU is free")
