# SPDX-License-Identifier: Apache-2.0
"""`cap_tokens`: no answer is asked for that the context window cannot hold.

Owns the token fields of a request. An engine refuses a request whose prompt and `max_tokens` do
not fit together, and many clients send a fixed `max_tokens`; here the number is lowered instead.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from sparkd.core import tokens
from sparkd.core.errors import RequestError
from sparkd.core.model import Dialect, ModelSpec

_BUFFER_MIN = 512
_BEYOND = 1 << 63
"""For numbers such as 1e400, which are whole and too large for a float."""
_CHAT_FIELDS = ("max_completion_tokens", "max_tokens")
"""Of the two, the first that is given counts."""
_FIELD: Final = {
    Dialect.COMPLETIONS: "max_tokens",
    Dialect.RESPONSES: "max_output_tokens",
    Dialect.MESSAGES: "max_tokens",
}


def cap(spec: ModelSpec, dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """The body with no more tokens asked for than fit. Raises RequestError."""
    if spec.max_model_len is None:
        return body
    most = _room(spec.max_model_len, _buffer(spec), tokens.of_prompt(dialect, body))
    if dialect is Dialect.CHAT:
        return _cap_chat(body, most)
    field = _FIELD[dialect]
    # What is missing or senseless stays so: here the engine has a default or an answer of its own.
    asked = _number(body, field)
    return body if asked is None or asked <= most else {**body, field: most}


def _cap_chat(body: dict[str, Any], most: int) -> dict[str, Any]:
    """Sets both fields: engines of one kind or another read only one of them."""
    asked = next(
        (number for field in _CHAT_FIELDS if (number := _number(body, field)) is not None), None
    )
    result = most if asked is None or asked < 1 else min(asked, most)
    if all(type(body.get(field)) is int and body[field] == result for field in _CHAT_FIELDS):
        return body
    return {**body, **dict.fromkeys(reversed(_CHAT_FIELDS), result)}


def _room(max_model_len: int, buffer: int, prompt: int) -> int:
    # A prompt that seems too long still gets one token: the engine counts better than we do.
    return max(1, max_model_len - prompt - buffer)


def _buffer(spec: ModelSpec) -> int:
    if spec.context_buffer_tokens is not None:
        return spec.context_buffer_tokens
    return max(_BUFFER_MIN, (spec.max_model_len or 0) // 10)


def _number(body: dict[str, Any], field: str) -> int | None:
    """The whole number of a field, None when it has none. Raises RequestError.

    `9.0` and `"9"` are nine, as for the engines.
    """
    value = body.get(field)
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, float) and math.isinf(value):
        return _BEYOND if value > 0 else -_BEYOND
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise RequestError(
        f"{field!r} is {_shown(value)}, not a whole number",
        hint="leave it out to get as much as fits",
        param=field,
    )


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return str(value).lower()[:40] if isinstance(value, bool | float) else repr(value)[:40]
