# SPDX-License-Identifier: Apache-2.0
"""Keep-alives of event streams: their form by dialect, and the places where they may go.

A keep-alive is a whole event of the client's dialect, or a comment. It never adds to the response.
No I/O and no clock; `gateway.handlers.keep_alive_timer` decides when to send one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparkd.core.errors import RequestError
from sparkd.core.http.sse import END_MARK, Reader, comment
from sparkd.core.model import KeepAlive

HEADER = "x-sparkd-keep-alive"
"""With it a client chooses the form for its own request."""
_LIBRARY = "x-stainless-lang"
"""The libraries of OpenAI and Anthropic name their language in this header."""
_PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_BOUNDARIES = (b"\n\n", b"\n\r\n")
_END_TYPE = re.compile(
    rb'"type" ?: ?"(?:message_stop|error|response\.(?:completed|failed|incomplete))"\s*\}\s*\Z'
)


def chosen(setting: KeepAlive, operation: str, headers: Mapping[str, str]) -> KeepAlive:
    """The form for one request, whose header overrides the setting. Raises RequestError."""
    wanted = headers.get(HEADER)
    if wanted is None:
        # LangChain.js builds on this library. It reads a chunk without a role, before the first
        # one with a role, as a message of an unknown role. The library itself skips comments.
        js = headers.get(_LIBRARY, "").lower() == "js"
        if setting is KeepAlive.CHUNK and operation == "chat/completions" and js:
            return KeepAlive.COMMENT
        return setting
    try:
        return KeepAlive(wanted.strip().lower())
    except ValueError:
        raise RequestError(
            f"{HEADER} is {wanted[:40]!r}",
            hint=f"{HEADER}: {', '.join(KeepAlive)}",
            code="bad_request",
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlives:
    """The keep-alives of one stream."""

    form: KeepAlive
    operation: str
    model_id: str
    engine_request_id: str
    """The `x-request-id` that the engine gets, from which vLLM makes the ids of its chunks. Empty
    for other engines, so that an accumulator that compares ids takes theirs."""
    created_at: int

    def beat(self, text: str, first: bytes = b"") -> bytes:
        """One keep-alive. `text` goes into a comment; `first` is how the response began.

        Chunks repeat the id, time and model that `first` has, so that they stay the same within
        the stream.
        """
        if self.form is KeepAlive.CHUNK:
            match self.operation:
                case "chat/completions":
                    choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": None}
                    return self._chunk("chatcmpl", "chat.completion.chunk", choice, first)
                case "completions":
                    choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": None}
                    return self._chunk("cmpl", "text_completion", choice, first)
                case "messages":
                    return _PING
        return comment(text)

    def _chunk(self, prefix: str, kind: str, choice: dict[str, Any], first: bytes) -> bytes:
        own_id = f"{prefix}-{self.engine_request_id}" if self.engine_request_id else ""
        own = {"id": own_id, "created": self.created_at, "model": self.model_id}
        said = _first_event(first)
        shared = {
            name: said[name] if type(said.get(name)) is type(value) else value
            for name, value in own.items()
        }
        event = {"id": shared.pop("id"), "object": kind, **shared, "choices": [choice]}
        return f"data: {json.dumps(event)}\n\n".encode()


def may_follow(tail: bytes) -> bool:
    """Whether a keep-alive may follow a stream that ends so: between events, before the last."""
    if not tail:
        return True
    return tail.endswith(_BOUNDARIES) and not (END_MARK.search(tail) or _END_TYPE.search(tail))


def _first_event(first: bytes) -> dict[str, Any]:
    for item in Reader().feed(first):
        if not item.is_comment:
            try:
                event = json.loads(item.text)
            except (ValueError, RecursionError):
                return {}
            return event if isinstance(event, dict) else {}
    return {}
