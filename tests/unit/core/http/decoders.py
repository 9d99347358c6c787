# SPDX-License-Identifier: Apache-2.0
"""How foreign clients read event streams: the steps of each decoder, written here for the tests.

A decoder takes the whole stream and gives the data of each event that it hands to its program, or
raises as the original fails. Each one says which program it follows and what is peculiar in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

EMPTY_LINES_MOST = 150
"""`DefaultEmptyMessagesLimit` of go-openai."""


class DecodeError(Exception):
    """The original fails here."""


Decoder = Callable[[bytes], list[str]]


def _value(line: str, name: str) -> str:
    return line[len(name) + 1 :].removeprefix(" ")


def by_the_standard(stream: bytes) -> list[str]:
    """HTML 9.2.6. Browsers, okhttp-sse (LangChain4j), eventsource-parser (AI SDK),
    eventsource-stream (Codex): comments are skipped, an event without data is not dispatched."""
    events: list[str] = []
    data: list[str] = []
    for line in re.split(r"\r\n|\n|\r", stream.decode())[:-1]:
        if not line:
            if data:
                events.append("\n".join(data))
            data = []
        elif line.startswith("data:"):
            data.append(_value(line, "data"))
        elif line == "data":
            data.append("")
    return events


def openai_python(stream: bytes) -> list[str]:
    """openai-python and anthropic for Python: an event is dispatched when any field is set."""
    events: list[str] = []
    data: list[str] = []
    name = ""
    for line in stream.decode().splitlines():
        if not line:
            if name or data:
                events.append("\n".join(data))
            name, data = "", []
        elif line.startswith(":"):
            continue
        elif line.startswith("data:"):
            data.append(_value(line, "data"))
        elif line.startswith("event:"):
            name = _value(line, "event")
    return events


def openai_node(stream: bytes) -> list[str]:
    """openai-node, anthropic for TypeScript: chunks up to a blank line, then their lines."""
    events: list[str] = []
    for chunk in re.findall(r".*?(?:\n\n|\r\r|\r\n\r\n)", stream.decode(), re.DOTALL):
        data: list[str] = []
        name = ""
        for line in re.split(r"\r\n|\n|\r", chunk):
            if not line:
                if name or data:
                    events.append("\n".join(data))
                name, data = "", []
            elif line.startswith("data:"):
                data.append(_value(line, "data"))
            elif line.startswith("event:"):
                name = _value(line, "event")
    return events


def openai_go(stream: bytes) -> list[str]:
    """openai-go from 3.43 on: a blank line without data before it is skipped."""
    return _openai_go(stream, skips_empty=True)


def openai_go_old(stream: bytes) -> list[str]:
    """openai-go before 3.43: every blank line dispatches, and nothing is no JSON."""
    return _openai_go(stream, skips_empty=False)


def _openai_go(stream: bytes, *, skips_empty: bool) -> list[str]:
    events: list[str] = []
    data = ""
    for line in stream.decode().replace("\r\n", "\n").split("\n")[:-1]:
        if not line:
            if data or not skips_empty:
                if not data.startswith("[DONE]"):
                    _json(data)
                events.append(data.removesuffix("\n"))
            data = ""
        elif line.startswith("data:"):
            data += _value(line, "data") + "\n"
    return events


def go_openai(stream: bytes) -> list[str]:
    """sashabaranov/go-openai: one line at a time; the limit counts lines between two events."""
    events: list[str] = []
    empty = 0
    for raw in stream.decode().split("\n")[:-1]:
        line = raw.strip()
        if not line.startswith("data:"):
            empty += 1
            if empty > EMPTY_LINES_MOST:
                raise DecodeError("stream has sent too many empty messages")
            continue
        empty = 0
        text = line.removeprefix("data:").removeprefix(" ")
        events.append(text)
        if text == "[DONE]":
            break
        _json(text)
    return events


def vllm_bench(stream: bytes) -> list[str]:
    """`vllm bench serve`: blocks between blank lines; a block that begins with `:` is skipped, any
    other is one `data: ` and JSON."""
    events: list[str] = []
    for raw in stream.decode().split("\n\n")[:-1]:
        block = raw.strip()
        if not block or block.startswith(":"):
            continue
        text = block.removeprefix("data: ")
        events.append(text)
        if text != "[DONE]":
            _json(text)
    return events


def vllm_bench_old(stream: bytes) -> list[str]:
    """The same before it knew comments: a comment is taken for JSON."""
    events: list[str] = []
    for raw in stream.decode().split("\n\n")[:-1]:
        text = raw.strip().removeprefix("data: ")
        if text:
            events.append(text)
            if text != "[DONE]":
                _json(text)
    return events


def litellm(stream: bytes) -> list[str]:
    """LiteLLM's own handlers, many scripts: lines that begin with `data:`, no others."""
    return [
        line.removeprefix("data:").strip()
        for line in stream.decode().splitlines()
        if line.startswith("data:")
    ]


def block_splitter(stream: bytes) -> list[str]:
    """Scripts that split on blank lines and take a block that begins with `data: `."""
    return [
        block.removeprefix("data: ")
        for block in stream.decode().replace("\r\n", "\n").split("\n\n")
        if block.startswith("data: ")
    ]


def line_reader(stream: bytes) -> list[str]:
    """llama.cpp's and JetBrains' readers: each line is a field with a colon, or an error."""
    events: list[str] = []
    for line in stream.decode().splitlines():
        if not line:
            continue
        name, colon, _ = line.partition(":")
        if not colon:
            raise DecodeError(f"no field in {line!r}")
        if name == "data":
            events.append(_value(line, "data"))
    return events


def strict_json_lines(stream: bytes) -> list[str]:
    """Readers that refuse each line that is neither blank nor `event:` nor `data:`."""
    events: list[str] = []
    for line in stream.decode().splitlines():
        if line.startswith("data:"):
            events.append(_value(line, "data"))
        elif line and not line.startswith("event:"):
            raise DecodeError(f"unexpected {line!r}")
    return events


def _json(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise DecodeError(str(error)) from None


DECODERS: dict[str, Decoder] = {
    "the standard": by_the_standard,
    "openai-python": openai_python,
    "openai-node": openai_node,
    "openai-go": openai_go,
    "openai-go before 3.43": openai_go_old,
    "go-openai": go_openai,
    "vllm bench": vllm_bench,
    "older vllm bench": vllm_bench_old,
    "LiteLLM": litellm,
    "splitters on blank lines": block_splitter,
    "line readers": line_reader,
    "strict line readers": strict_json_lines,
}
