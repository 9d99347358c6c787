# SPDX-License-Identifier: Apache-2.0
"""`cap_tokens` and `cap_tokens_by_estimate`: no more tokens requested than an engine accepts.

Owns the token fields of a request. Many clients send a fixed `max_tokens`, which an engine refuses
when it is larger than the context window; here the number is lowered instead.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from sparkd.core.errors import RequestError
from sparkd.core.model import Dialect, ModelSpec
from sparkd.core.rewriting import tokens

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
    """The body with at most the context window asked for. Raises RequestError.

    Engines lower such a number to what the prompt leaves free, and refuse a larger one.
    """
    if spec.max_model_len is None:
        return body
    if dialect is not Dialect.CHAT:
        return _lowered(body, _FIELD[dialect], spec.max_model_len)
    asked = _asked_in_chat(body)
    if asked is not None and asked >= 1:
        return _set_in_chat(body, min(asked, spec.max_model_len))
    # Without a number an engine uses what is free.
    given = {key for key in _CHAT_FIELDS if body.get(key) is not None}
    return {key: value for key, value in body.items() if key not in given} if given else body


def cap_by_estimate(spec: ModelSpec, dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """The body with no more tokens asked for than an estimated prompt leaves free.

    For engines that refuse a prompt and a number that do not fit together. Raises RequestError.
    """
    if spec.max_model_len is None:
        return body
    most = _room(spec.max_model_len, _buffer(spec), tokens.of_prompt(dialect, body))
    if dialect is not Dialect.CHAT:
        return _lowered(body, _FIELD[dialect], most)
    asked = _asked_in_chat(body)
    return _set_in_chat(body, most if asked is None or asked < 1 else min(asked, most))


def _lowered(body: dict[str, Any], field: str, most: int) -> dict[str, Any]:
    # A missing or negative number stays: the engine has a default or an answer for it.
    asked = _number(body, field)
    return body if asked is None or asked <= most else {**body, field: most}


def _asked_in_chat(body: dict[str, Any]) -> int | None:
    numbers = (_number(body, field) for field in _CHAT_FIELDS)
    return next((number for number in numbers if number is not None), None)


def _set_in_chat(body: dict[str, Any], number: int) -> dict[str, Any]:
    """Sets both fields: engines of one kind or another read only one of them."""
    if all(type(body.get(field)) is int and body[field] == number for field in _CHAT_FIELDS):
        return body
    return {**body, **dict.fromkeys(reversed(_CHAT_FIELDS), number)}


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
