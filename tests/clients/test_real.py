# SPDX-License-Identifier: Apache-2.0
"""The libraries against real vLLM and a real model, through the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.hosts import BASE_URL, Host
from tests.system.test_vllm import MODEL, QUESTION, SETTINGS

from .test_libraries import LIBRARIES, started


@pytest.fixture(scope="module")
def served(vllm: Host) -> Iterator[Host]:
    vllm.configure(SETTINGS)
    # The cold start is the first library's; what clients see of one is tried with the stand-in.
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
        whole = library.do("chat", text=QUESTION, **gateway)
        assert whole.get("text"), whole
        streamed = library.do("stream", text=QUESTION, **gateway)
        assert len(streamed.get("pieces", [])) > 3, streamed
    finally:
        library.close()
