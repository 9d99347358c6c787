# SPDX-License-Identifier: Apache-2.0
"""The libraries that programs are written with, against a booted host: none was changed for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.hosts import BASE_URL, SETTINGS, Host, Stream

from . import installed
from .conftest import MODEL
from .wire import Library, Tap, environment

PROGRAMS = Path(__file__).resolve().parent / "programs"
SUM = 'use add {"a": 19, "b": 23}'
LIBRARIES = ("openai_python", "openai_js", "litellm_python", "anthropic_python")
LONG = pytest.mark.long
OPENAIS = ("openai_python", "openai_js", "litellm_python")


def keep_alive_of(library: str) -> bytes:
    """What a keep-alive has in it that this library gets in a chat."""
    forms = {"openai_js": b": sparkd loading", "anthropic_python": b"event: ping\n"}
    return forms.get(library, b'"delta": {}')


def started(host: Host, name: str, home: Path) -> Library:
    if name == "openai_js":
        env = environment(home, NODE_PATH=installed.node_modules())
        return Library(host, ["node", PROGRAMS / f"{name}.cjs"], env)
    env = environment(home, LITELLM_LOCAL_MODEL_COST_MAP="True")
    return Library(host, [installed.python("libraries"), PROGRAMS / f"{name}.py"], env)


@pytest.fixture(scope="session", params=LIBRARIES)
def library(
    trixie: Host, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Library]:
    made = started(trixie, request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.close()


slow = pytest.mark.parametrize(
    "library",
    [
        name if name in ("openai_python", "anthropic_python") else pytest.param(name, marks=LONG)
        for name in LIBRARIES
    ],
    indirect=True,
)
"""Two of the four are what the others are built from or built like."""
only_openai = pytest.mark.parametrize("library", OPENAIS, indirect=True)


@pytest.fixture
def gateway(key: str) -> dict[str, Any]:
    """Where a library is told to go."""
    return {"url": BASE_URL, "key": key, "model": MODEL}


def test_library_gets_an_answer(warm: Host, library: Library, gateway: dict[str, Any]) -> None:
    told = library.do("chat", text="how are you", **gateway)
    assert told == {"text": "echo: how are you", "finish": told.get("finish")}
    assert told["finish"] in ("stop", "end_turn")


def test_library_streams_piece_by_piece(
    warm: Host, library: Library, gateway: dict[str, Any]
) -> None:
    told = library.do("stream", text="grüße aus 東京", **gateway)
    assert told == {"pieces": ["echo:", " grüße", " aus", " 東京"]}


def test_library_calls_a_tool_and_tells_its_result(
    warm: Host, library: Library, gateway: dict[str, Any]
) -> None:
    told = library.do("tool", text=SUM, **gateway)
    assert (told["called"], told["text"]) == ("add", "echo: the sum is 42"), told
    assert told["finish"] in ("tool_calls", "tool_use")


def test_library_puts_a_streamed_tool_call_together(
    warm: Host, library: Library, gateway: dict[str, Any]
) -> None:
    told = library.do("tool_stream", text=SUM, **gateway)
    assert told == {"called": "add", "result": "the sum is 42"}


def test_helper_of_the_library_puts_a_response_together_after_keep_alives(
    trixie: Host, library: Library, gateway: dict[str, Any], tap: Tap
) -> None:
    """Its accumulator begins with a chunk that has no role."""
    trixie.stop_models()
    trixie.configure(SETTINGS)
    told = library.do("tool_stream", text=SUM, **{**gateway, "url": tap.url})
    assert keep_alive_of(library.name) in tap.answers
    assert told == {"called": "add", "result": "the sum is 42"}


@only_openai
def test_library_gets_embeddings(warm: Host, library: Library, gateway: dict[str, Any]) -> None:
    assert library.do("embed", texts=["one", "two"], **gateway) == {"sizes": [8, 8]}


@pytest.mark.parametrize("library", ["openai_python", "openai_js"], indirect=True)
def test_library_streams_the_responses_api_and_lists_models(
    warm: Host, library: Library, gateway: dict[str, Any]
) -> None:
    told = library.do("respond", text="good day", **gateway)
    assert told["text"] == "echo: good day"
    assert told["kinds"][-1] == "response.completed"
    listed = library.do("models", url=gateway["url"], key=gateway["key"])
    assert MODEL in listed["ids"]


@pytest.mark.parametrize("library", ["anthropic_python"], indirect=True)
def test_library_counts_tokens(warm: Host, library: Library, gateway: dict[str, Any]) -> None:
    assert library.do("count", text="one two three", **gateway) == {"tokens": 4}


def test_errors_arrive_as_the_kinds_that_the_library_has(
    warm: Host, library: Library, gateway: dict[str, Any]
) -> None:
    wrong = library.do("chat", text="x", **{**gateway, "key": "sk-wrong"})
    assert (wrong["error"], wrong["status"]) == ("AuthenticationError", 401)
    assert "sparkctl key show" in wrong["message"]
    unknown = library.do("chat", text="x", **{**gateway, "model": "no-such-model"})
    assert (unknown["error"], unknown["status"]) == ("NotFoundError", 404)
    assert "no-such-model" in unknown["message"]
    broken = library.do("chat", text=[], **gateway)
    assert (broken["error"], broken["status"]) == ("BadRequestError", 400)


@slow
def test_library_waits_as_long_as_it_is_told_and_tries_again(
    trixie: Host, library: Library, gateway: dict[str, Any], tap: Tap
) -> None:
    trixie.stop_models()
    trixie.configure(SETTINGS + "busy: reject\n")
    # In use for a second and a half; a model without requests leaves for another one.
    running = Stream(trixie, "fake-a", tokens=15, pace_ms=100)
    running.wait_first()
    told = library.do("chat", text="me too", **{**gateway, "url": tap.url, "retries": 3})
    assert told["text"] == "echo: me too"
    running.wait()
    assert running.whole
    *refused, last = re.findall(rb"HTTP/1\.1 (\d+) ", tap.answers)
    assert last == b"200"
    assert set(refused) == {b"429"}
    waits_s = re.findall(rb"retry-after: (\d+)", tap.answers.lower())
    assert len(waits_s) == len(refused)


def test_engine_stops_when_the_library_leaves(
    warm: Host, library: Library, gateway: dict[str, Any]
) -> None:
    before = warm.engine_state(MODEL)["cancelled"]
    slow = {"tokens": 1000, "pace_ms": 50}
    told = library.do("stream", text="count", leave_after=3, fake=slow, **gateway)
    assert len(told["pieces"]) == 3
    warm.wait_until(
        lambda: warm.engine_state(MODEL)["cancelled"] == before + 1, "the engine stopped", 10
    )


def test_library_waits_through_a_cold_start(
    trixie: Host, library: Library, gateway: dict[str, Any], tap: Tap
) -> None:
    trixie.stop_models()
    trixie.configure(SETTINGS)
    told = library.do("stream", text="wake up", **{**gateway, "url": tap.url})
    assert told == {"pieces": ["echo:", " wake", " up"]}
    # It got a keep-alive before there was anything to read.
    before, found, rest = tap.answers.partition(keep_alive_of(library.name))
    assert b"200 OK" in before
    assert b"echo:" not in before
    assert found
    assert b"echo:" in rest


@pytest.mark.parametrize("library", ["openai_python"], indirect=True)
def test_library_with_less_patience_than_a_load_succeeds_with_one_load(
    trixie: Host, library: Library, gateway: dict[str, Any], tap: Tap
) -> None:
    trixie.stop_models()
    trixie.configure(SETTINGS)
    cursor = trixie.cursor()
    impatient = {**gateway, "url": tap.url, "timeout": 1.0, "retries": 6}
    assert library.do("chat", text="again", **impatient)["text"] == "echo: again"
    loads = trixie.journal("SPARKD_EVENT=model-starting", since=cursor)
    assert [entry["SPARKD_MODEL"] for entry in loads] == [MODEL]


@slow
def test_failure_of_a_cold_start_reaches_the_caller_in_our_words(
    trixie: Host, library: Library, gateway: dict[str, Any], tap: Tap
) -> None:
    trixie.stop_models()
    trixie.configure(SETTINGS)
    told = library.do("stream", text="x", **{**gateway, "url": tap.url, "model": "fake-hang"})
    assert keep_alive_of(library.name) in tap.answers
    assert "error" in told, told
    assert "was not healthy within" in told["message"]
