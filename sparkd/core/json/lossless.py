# SPDX-License-Identifier: Apache-2.0
"""JSON bodies without loss: unchanged numbers, escapes and spaces stay as they were written.

Owns reading and writing of request bodies and nothing of what they mean. `parse` keeps how each
value of the outermost object was written; `write` puts out that text for every value that is still
the very same object, and only the others are written again. A number inside one of those keeps its
text too: `1.0`, `1e400` and integers beyond 2^53 are not rounded.
"""

from __future__ import annotations

import json
import re
from typing import Any, Never

from sparkd.core.json.spliced import Raw

KEYS_MAX = 512
"""Bodies with more keys than any API knows are read by the C parser alone, and written again."""

_SPACE = re.compile(r"[ \t\n\r]*")
_KEY = re.compile(r'[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
"""A key as nearly all are, without an escape, and what stands around it before its value."""
_NUMBERS = re.compile(r"[-+0-9.eE, \t\n\r]{1,4096}")
"""Part of a list of numbers, which is read at once: prompts may be thousands of token ids."""
_NEXT = re.compile(r"[ \t\n\r]*([,}])")


class ExactFloat(float):
    """A number that Python would write in another way than it was written."""

    __slots__ = ("text",)
    text: str


class Written(dict[str, Any]):
    """An object that knows how its values were written."""

    __slots__ = ("_source", "_spans")

    def __init__(self, source: str = "") -> None:
        super().__init__()
        self._source = source
        self._spans: dict[str, tuple[int, int]] = {}

    def put(self, key: str, value: object, span: tuple[int, int]) -> None:
        self[key] = value
        self._spans[key] = span

    def text_of(self, key: str, value: object) -> str | None:
        """The text of that value; None if it is not the one that was read under this key."""
        span = self._spans.get(key)
        if span is None or self.get(key) is not value:
            return None
        return self._source[slice(*span)]


def parse(raw: Raw, *, yielding: bool = False) -> object:
    """The value of a JSON text in UTF-8. Raises ValueError, or RecursionError when too deep.

    Of a key that stands twice the last one holds, as for the engines behind. With `yielding`
    other threads run between the members of outer lists, at a small cost.
    """
    text = raw.decode()
    start = _skip(text, 1 if text.startswith("\ufeff") else 0)
    found = (
        _read_object(text, start + 1, yielding=yielding) if text.startswith("{", start) else None
    )
    value: object
    value, end = found or _DECODER.raw_decode(text, start)
    end = _skip(text, end)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def write(body: dict[str, Any], source: dict[str, Any] | None = None) -> bytes:
    """The JSON text of a body, made of `source` by changing some of its values.

    Raises RecursionError when a changed value is nested too deeply.
    """
    known = source if isinstance(source, Written) else Written()
    out = ["{"]
    for index, (key, value) in enumerate(body.items()):
        out.append(f"{',' if index else ''}{_scalar(key)}:")
        text = known.text_of(key, value)
        if text is None:
            _write(value, out)
        else:
            out.append(text)
    out.append("}")
    # A lone surrogate has no UTF-8, and its Python escape is its JSON escape.
    return "".join(out).encode("utf-8", "backslashreplace")


def _write(value: object, out: list[str]) -> None:
    if isinstance(value, dict):
        out.append("{")
        for index, (key, member) in enumerate(value.items()):
            out.append(f"{',' if index else ''}{_scalar(key)}:")
            _write(member, out)
        out.append("}")
    elif isinstance(value, list):
        out.append("[")
        for index, member in enumerate(value):
            if index:
                out.append(",")
            _write(member, out)
        out.append("]")
    else:
        out.append(value.text if isinstance(value, ExactFloat) else _scalar(value))


def _read_object(text: str, at: int, *, yielding: bool) -> tuple[Written, int] | None:
    """The object whose first key or closing brace is next, and where it ends.

    None when it has too many keys for a loop in Python.
    """
    body = Written(text)
    first = _skip(text, at)
    if text.startswith("}", first):
        return body, first + 1
    while len(body) < KEYS_MAX:
        plain = _KEY.match(text, at)
        key, start = (plain[1], plain.end()) if plain is not None else _read_key(text, at)
        listed = yielding and text.startswith("[", start)
        value, at = (_read_list if listed else _DECODER.raw_decode)(text, start)
        body.put(key, value, (start, at))
        following = _NEXT.match(text, at)
        if following is None:
            raise json.JSONDecodeError("Expecting ',' or '}'", text, _skip(text, at))
        at = following.end()
        if following[1] == "}":
            return body, at
    return None


def _read_list(text: str, at: int) -> tuple[list[Any], int]:
    """The list that begins here, read member by member, and where it ends."""
    members: list[Any] = []
    first = _skip(text, at + 1)
    if text.startswith("]", first):
        return members, first + 1
    while True:
        at = _skip(text, at + 1)
        run = _NUMBERS.match(text, at)
        comma = text.rfind(",", at, run.end()) if run else -1
        if comma > at:
            members += _DECODER.raw_decode(f"[{text[at:comma]}]")[0]
            at = comma
            continue
        member, at = _DECODER.raw_decode(text, at)
        members.append(member)
        at = _skip(text, at)
        if text.startswith("]", at):
            return members, at + 1
        if not text.startswith(",", at):
            raise json.JSONDecodeError("Expecting ',' or ']'", text, at)


def _read_key(text: str, at: int) -> tuple[str, int]:
    """A key with escapes, and where its value begins; or what is wrong there."""
    at = _skip(text, at)
    if not text.startswith('"', at):
        raise json.JSONDecodeError("Expecting a key in double quotes", text, at)
    key, at = _DECODER.raw_decode(text, at)
    at = _skip(text, at)
    if not text.startswith(":", at):
        raise json.JSONDecodeError("Expecting ':'", text, at)
    return key, _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    """The first place from here that is not white space."""
    match = _SPACE.match(text, at)
    assert match
    return match.end()


def _float(text: str) -> float:
    number = float(text)
    if repr(number) == text:
        return number
    exact = ExactFloat(number)
    exact.text = text
    return exact


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a number of JSON")


_DECODER = json.JSONDecoder(parse_float=_float, parse_constant=_refuse_constant)
_scalar = json.JSONEncoder(ensure_ascii=False).encode
