# SPDX-License-Identifier: Apache-2.0
"""The libraries against real vLLM and a real model, through the gateway.

How long the model talks is its own choice, so this is none of the tests that are always run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.hosts import BASE_URL, Host
from tests.system.test_vllm import MODEL, SETTINGS

from .test_libraries import LIBRARIES, LONG, started

QUESTION = "Name the capital of France in one word."
ANSWER_S = 120.0

pytestmark = LONG


@pytest.fixture(scope="module")
def served(vllm: Host) -> Iterator[Host]:
    vllm.configure(SETTINGS)
    # Not a cold start for the first of them; what clients see of one is tried with the stand-in.
    assert vllm.chat(MODEL, QUESTION, max_tokens=5, timeout_s=240).status_code == 200
    yield vllm
    vllm.stop_models()


@pytest.mark.parametrize("name", LIBRARIES)
def test_library_gets_a_real_answer_whole_and_in_pieces(
    served: Host, name: str, tmp_path: Path
) -> None:
    gateway = {"url": BASE_URL, "key": served.key, "model": MODEL}
    library = started(served, name, tmp_path)
    try:
        whole = library.do("chat", timeout_s=ANSWER_S, text=QUESTION, **gateway)
        assert whole.get("text"), whole
        streamed = library.do("stream", timeout_s=ANSWER_S, text=QUESTION, **gateway)
        assert streamed.get("pieces"), streamed
    finally:
        library.close()
