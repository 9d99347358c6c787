# SPDX-License-Identifier: Apache-2.0
"""Keep-alives: their forms, and that no client reads anything else because of them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sparkd.core.errors import RequestError
from sparkd.core.http.keep_alive import HEADER, KeepAlives, chosen, may_follow
from sparkd.core.model import KeepAlive
from tests.unit.core.http.decoders import DECODERS, EMPTY_LINES_MOST, DecodeError, Decoder
from tests.unit.project.sources import ROOT

OPERATIONS = ["chat/completions", "completions", "messages", "responses"]
CHUNK, COMMENT = KeepAlive.CHUNK, KeepAlive.COMMENT
UNSAFE = {
    (COMMENT, "openai-go before 3.43"),
    (COMMENT, "older vllm bench"),
    (COMMENT, "strict line readers"),
}
"""Forms that a client does not survive at all."""
UNSAFE_WHEN_LONG = UNSAFE | {(COMMENT, "go-openai")}
"""Forms that a client does not survive for as long as a load may take."""
CHAT_ONLY = {"go-openai", "vllm bench", "older vllm bench", "splitters on blank lines"}
"""Decoders that cannot read streams with `event:` lines, keep-alives or not."""
READERS = [
    (name, operation)
    for name in DECODERS
    for operation in OPERATIONS
    if name not in CHAT_ONLY or operation in ("chat/completions", "completions")
]


def beats(operation: str, form: KeepAlive, *, request_id: str = "r1") -> KeepAlives:
    return KeepAlives(
        form=form,
        operation=operation,
        model_id="m",
        engine_request_id=request_id,
        created_at=1,
    )


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {json.dumps(data)}\n\n".encode()


def chat(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-r1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return event({**chunk, "choices": [choice]})


STREAMS: dict[str, list[bytes]] = {
    "chat/completions": [
        chat({"role": "assistant", "content": ""}),
        chat({"content": "one\n\ndata: two"}),
        chat({"content": ": three"}),
        chat({}, "stop"),
        b"data: [DONE]\n\n",
    ],
    "completions": [
        event({"id": "cmpl-r1", "choices": [{"index": 0, "text": "one"}]}),
        event({"id": "cmpl-r1", "choices": [{"index": 0, "text": "two", "finish_reason": "stop"}]}),
        b"data: [DONE]\n\n",
    ],
    "messages": [
        event({"type": name, "text": "x"}, name)
        for name in ("message_start", "content_block_delta", "message_delta", "message_stop")
    ],
    "responses": [
        event({"response": {"text": "x"}, "type": name}, name)
        for name in ("response.created", "response.output_text.delta", "response.completed")
    ],
}


def content(operation: str, events: list[str]) -> list[object]:
    """What a program makes of the events: text, roles and ends; pings and empty deltas add none."""
    seen: list[object] = []
    for text in events:
        value: Any = json.loads(text) if text != "[DONE]" else text
        if operation == "messages":
            seen += [value] if value["type"] != "ping" else []
        elif operation == "responses" or value == "[DONE]":
            seen.append(value)
        else:
            for choice in value["choices"]:
                said = choice.get("delta") or choice.get("text") or {}
                if said or choice.get("finish_reason"):
                    seen.append((said, choice.get("finish_reason")))
    return seen


def with_beats(operation: str, form: KeepAlive, *, times: int) -> bytes:
    """The stream with keep-alives at every boundary at which one may stand."""
    out = b""
    for part in STREAMS[operation]:
        beat = beats(operation, form).beat("sparkd loading m 2s, typically 95s", out)
        out += (beat * times if may_follow(out) else b"") + part
    return out


def read(decoder: Decoder, operation: str, stream: bytes) -> list[object] | None:
    """What a client makes of a stream, or None where it fails."""
    try:
        return content(operation, decoder(stream))
    except (DecodeError, ValueError):
        return None


@pytest.mark.parametrize("times", [1, EMPTY_LINES_MOST])
@pytest.mark.parametrize("form", [CHUNK, COMMENT])
@pytest.mark.parametrize(("name", "operation"), READERS)
def test_client_reads_the_same_with_keep_alives_as_without(
    name: str, operation: str, form: KeepAlive, times: int
) -> None:
    decoder = DECODERS[name]
    alone = read(decoder, operation, b"".join(STREAMS[operation]))
    assert alone is not None
    kept = read(decoder, operation, with_beats(operation, form, times=times))
    # The Responses API has no event that adds nothing, so its keep-alives are always comments.
    sent = COMMENT if operation == "responses" else form
    unsafe = UNSAFE if times == 1 else UNSAFE_WHEN_LONG
    assert (kept != alone) is ((sent, name) in unsafe)


def test_default_form_is_safe_for_every_client_of_the_chat_api() -> None:
    assert {name for form, name in UNSAFE_WHEN_LONG if form is CHUNK} == set()


def test_unsafe_forms_are_those_of_the_document() -> None:
    text = (ROOT / "docs/reference/clients.md").read_text()
    for _, name in UNSAFE_WHEN_LONG:
        assert re.search(rf"^\| {name}.* \| yes \| \*\*no", text, re.MULTILINE), name


def test_chunk_is_whole_and_adds_nothing() -> None:
    raw = beats("chat/completions", CHUNK).beat("text")
    assert raw.endswith(b"\n\n")
    assert raw.count(b"\n") == 2
    assert json.loads(raw.removeprefix(b"data: ")) == {
        "id": "chatcmpl-r1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {}, "finish_reason": None}],
    }
    raw = beats("completions", CHUNK).beat("text")
    assert json.loads(raw.removeprefix(b"data: "))["choices"][0]["text"] == ""
    assert beats("messages", CHUNK).beat("text") == b'event: ping\ndata: {"type": "ping"}\n\n'
    for operation in ("responses", "audio/transcriptions"):
        assert beats(operation, CHUNK).beat("a\nb") == b": a b\n\n"


def test_ids_stay_those_of_the_stream() -> None:
    """openai-go's accumulator gives up a stream whose ids differ; an empty one it replaces."""
    mine = beats("chat/completions", CHUNK, request_id="")
    assert json.loads(mine.beat("").removeprefix(b"data: "))["id"] == ""
    first = b': hello\n\ndata: {"choices": [{"id": "no"}], "id": "x", "model": "y"}\n\n'
    kept = json.loads(mine.beat("", first).removeprefix(b"data: "))
    assert (kept["id"], kept["created"], kept["model"]) == ("x", 1, "y")


@pytest.mark.parametrize(
    "first",
    [
        b"data: {",
        b"data: {\n\n",
        b"data: []\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"\xff\n\n",
        b'data: {"id": 5, "created": true, "model": ["x"]}\n\n',
        b'data: {"created": 1e999, "id": null}\n\n',
        b'data: {"created": ' + b"9" * 5000 + b"}\n\n",
    ],
)
def test_whatever_an_engine_begins_with_a_keep_alive_is_whole(first: bytes) -> None:
    raw = beats("chat/completions", CHUNK).beat("", first)
    said = json.loads(raw.removeprefix(b"data: "))
    assert (said["id"], said["created"], said["model"]) == ("chatcmpl-r1", 1, "m")


def test_header_of_a_request_is_stronger_than_the_setting() -> None:
    for setting in KeepAlive:
        for form in KeepAlive:
            assert chosen(setting, "chat/completions", {HEADER: f" {form.upper()} "}) is form
        assert chosen(setting, "chat/completions", {}) is setting
    with pytest.raises(RequestError) as refused:
        chosen(CHUNK, "chat/completions", {HEADER: "sometimes" * 100})
    assert len(refused.value.message) < 100


def test_library_under_langchain_js_gets_comments_in_chats() -> None:
    js = {"x-stainless-lang": "js"}
    assert chosen(CHUNK, "chat/completions", js) is COMMENT
    assert chosen(CHUNK, "chat/completions", {**js, HEADER: "chunk"}) is CHUNK
    assert chosen(KeepAlive.OFF, "chat/completions", js) is KeepAlive.OFF
    assert chosen(CHUNK, "messages", js) is CHUNK
    assert chosen(CHUNK, "chat/completions", {"x-stainless-lang": "python"}) is CHUNK


@pytest.mark.parametrize(
    ("tail", "right"),
    [
        (b"", True),
        (b"data: {}\n\n", True),
        (b"data: {}\r\n\r\n", True),
        (b": engine\n\n", True),
        (b"event: ping\ndata: {}\n\n", True),
        (b"data: {}", False),
        (b"data: {}\n", False),
        (b"data: {}\r\n", False),
        (b"data: {}\r\n\r", False),
        (b"event: x\n", False),
        (b"data: [DONE]\n\n", False),
        (b"data: [DONE]\r\n\r\n", False),
        (b"data:[DONE]\n\n", False),
        (b'event: message_stop\ndata: {"type": "message_stop"}\n\n', False),
        (b'x", "type":"response.completed"}\n\n', False),
        (b'event: error\ndata: {"error": 1}\n\n', False),
        (b'data: {"text": "data: [DONE]"}\n\n', True),
    ],
)
def test_keep_alive_follows_whole_events_only_and_never_the_end(tail: bytes, right: bool) -> None:
    assert may_follow(tail) is right
