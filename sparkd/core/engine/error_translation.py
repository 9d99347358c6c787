# SPDX-License-Identifier: Apache-2.0
"""An error of an engine, in the words and with the headers of the gateway.

vLLM and llama.cpp word their errors for OpenAI's clients, also where they speak Anthropic's API.
Clients of Anthropic's API act on its words: they shorten a conversation whose "prompt is too long".
Whatever the engine sent, `read` returns an error and raises nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sparkd.core.errors import BodyTooLarge, NotFound, RequestError, SparkdError, TooManyRequests

_NOT_IMPLEMENTED = 501
"""The same request gets the same answer until the engine is another one."""
BODY_MOST_BYTES = 64 << 10
"""How much of an engine's error is read."""
_MESSAGE_MOST = 2000
_KINDS: dict[int, type[SparkdError]] = {404: NotFound, 413: BodyTooLarge, 429: TooManyRequests}
_N, _MAXIMUM = r"(?P<n>[0-9]{1,12})", r"(?P<maximum>[0-9]{1,12})"
_OVERFLOWS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        rf"passed {_N} input tokens.{{1,200}}?maximum input length of {_MAXIMUM}",
        rf"maximum context length is {_MAXIMUM} tokens.{{1,100}}?"
        rf"(?:request has|requested|resulted in|contains) {_N} ",
        rf"\(length {_N}\).{{1,100}}?maximum model length of {_MAXIMUM}",
        rf"input length \({_N}\) exceeds .{{0,60}}?maximum context length \({_MAXIMUM}\)",
        rf"request \({_N} tokens\) exceeds the available context size \({_MAXIMUM} tokens\)",
    )
)
_DEAD = re.compile(r"EngineDeadError|EngineCore encountered an issue")
"""vLLM ends itself after such an answer; the next request would load the model again."""


def read(status: int, raw: bytes, *, anthropic: bool) -> SparkdError:
    """The error of a response with this status and body."""
    message, param = _said(raw[:BODY_MOST_BYTES])
    message = message or f"the engine answered {status}"
    kind = _KINDS.get(status, RequestError if status < 500 else SparkdError)
    error = kind(_in_anthropics_words(message) if anthropic else message)
    error.code, error.http_status, error.param = f"upstream_{status}", status, param
    if _DEAD.search(message) or status == _NOT_IMPLEMENTED:
        error.headers["x-should-retry"] = "false"
    return error


def overflow(message: str) -> tuple[int, int] | None:
    """Of a prompt that is longer than the model takes: its tokens, and how many it may have."""
    for pattern in _OVERFLOWS:
        found = pattern.search(message)
        if found is not None and int(found["n"]) > int(found["maximum"]):
            return int(found["n"]), int(found["maximum"])
    return None


def _in_anthropics_words(message: str) -> str:
    sizes = overflow(message)
    return f"prompt is too long: {sizes[0]} tokens > {sizes[1]} maximum" if sizes else message


def _said(raw: bytes) -> tuple[str, str | None]:
    """The message and the parameter of a body in any form; its text if it is none."""
    try:
        body: Any = json.loads(raw)
        told = body.get("error", body) if isinstance(body, dict) else body
        told = told if isinstance(told, dict) else {"message": told}
        message = told.get("message", told.get("detail"))
        text = message if isinstance(message, str) else json.dumps(message or told)
    except (ValueError, RecursionError):
        return _plain(raw.decode(errors="replace")), None
    param = told.get("param")
    return _plain(text), param[:_MESSAGE_MOST] if isinstance(param, str) else None


def _plain(text: str) -> str:
    """One bounded text that every JSON and every client takes."""
    return text.strip()[:_MESSAGE_MOST].encode(errors="replace").decode()
