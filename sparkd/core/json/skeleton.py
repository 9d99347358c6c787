# SPDX-License-Identifier: Apache-2.0
"""A JSON text without its long strings, which are cut out before parsing and put back afterwards.

Nearly all bytes of a large body are pictures and documents, and no rule reads them. `cut` leaves a
short mark in place of each long string, so that parsing, rewriting and writing cost as much as the
rest of the body. The skeleton is JSON if and only if the body is: `cut` checks what it takes out.

No call into C below takes the interpreter's lock for longer than a slice of the body needs, and
the limits bound time and memory before a parser sees the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sparkd.core.errors import BodyTooComplex
from sparkd.core.json.spliced import Payload, Raw, Spliced

LONG_BYTES: Final = 1024
"""A longer string is cut out."""
SKELETON_BYTES: Final = 8 << 20
VALUES: Final = 500_000
CONTAINERS: Final = 100_000
"""Lists and objects; each costs up to 300 bytes of memory."""

_SLICE_BYTES = 64 << 10
_CONTROLS = bytes(range(32))
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_CONTENT = re.compile(rb'[^\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^\\\x00-\x1f]*+)*+')
_MARK_START = "sparkd-string-"
_ANY_MARK = re.compile(_MARK_START + r"[0-9a-f]+-[0-9]{1,19}-([0-9]{1,9})-")


@dataclass(frozen=True, slots=True)
class Skeleton:
    text: bytes
    _raw: Raw
    _mark: re.Pattern[bytes]

    def restored(self, text: bytes) -> Payload:
        """A text made from the skeleton, each long string in the place of its mark."""
        return Spliced(self._pieces(text))

    def beginning(self, value: str, most: int = 200) -> str:
        """The first characters of a string that may be a mark."""
        mark = self._mark.fullmatch(value.encode("utf-8", "replace"))
        if mark is None:
            return value
        begin = int(mark[1])
        return bytes(self._raw[begin : begin + most]).decode("utf-8", "replace")

    def _pieces(self, text: bytes) -> Iterator[bytes | memoryview]:
        raw, view, kept = memoryview(self._raw), memoryview(text), 0
        for mark in self._mark.finditer(text):
            begin, length = int(mark[1]), int(mark[2])
            yield view[kept : mark.start()]
            yield raw[begin : begin + length]
            kept = mark.end()
        yield view[kept:]


def hidden_chars(text: str) -> int:
    """How many bytes the long strings have that marks in a text stand for."""
    if _MARK_START not in text:
        return 0
    return sum(int(length) for length in _ANY_MARK.findall(text))


def cut(raw: Raw, nonce: str) -> Skeleton:
    """The skeleton of a JSON text. Raises ValueError if a string is wrong, and BodyTooComplex.

    `nonce` is a random hexadecimal number that the sender of the body cannot know.
    """
    name = (_MARK_START + nonce).encode()
    kept: list[Raw | memoryview] = []
    counted = _Counted()
    view, at, start = memoryview(raw), 0, 0
    while (begin := raw.find(b'"', at)) >= 0:
        end = _string_end(raw, begin + 1)
        counted.between(raw, at, begin)
        if end - begin > LONG_BYTES:
            _check(raw, begin + 1, end)
            kept += [view[start : begin + 1], b"%b-%d-%d-" % (name, begin + 1, end - begin - 1)]
            counted.bytes += begin + 1 - start + len(kept[-1])
            start = end
        at = end + 1
        if counted.bytes + at - start > SKELETON_BYTES + LONG_BYTES:
            raise _too_complex(f"more than {SKELETON_BYTES >> 20} MiB besides its long strings")
    counted.between(raw, at, len(raw))
    kept.append(view[start:])
    if counted.bytes + len(raw) - start > SKELETON_BYTES + LONG_BYTES:
        raise _too_complex(f"more than {SKELETON_BYTES >> 20} MiB besides its long strings")
    return Skeleton(
        text=b"".join(kept),
        _raw=raw,
        _mark=re.compile(re.escape(name) + rb"-([0-9]{1,19})-([0-9]{1,19})-"),
    )


class _Counted:
    """What the skeleton has so far."""

    __slots__ = ("bytes", "containers", "values")

    def __init__(self) -> None:
        self.bytes = self.containers = self.values = 0

    def between(self, raw: Raw, begin: int, end: int) -> None:
        """Count the values that begin between two strings. Raises BodyTooComplex."""
        if end - begin == 1:  # As nearly always: a colon or a comma.
            self.values += raw[begin] == _COMMA
            if self.values > VALUES:
                raise _too_complex(f"more than {VALUES} values")
        elif end - begin > SKELETON_BYTES:
            raise _too_complex(f"more than {SKELETON_BYTES >> 20} MiB besides its long strings")
        else:
            for start in range(begin, end, _SLICE_BYTES):
                self._count(raw, start, min(end, start + _SLICE_BYTES))

    def _count(self, raw: Raw, begin: int, end: int) -> None:
        opened = raw.count(b"{", begin, end) + raw.count(b"[", begin, end)
        self.containers += opened
        self.values += raw.count(b",", begin, end) + opened
        if self.containers > CONTAINERS:
            raise _too_complex(f"more than {CONTAINERS} lists and objects")
        if self.values > VALUES:
            raise _too_complex(f"more than {VALUES} values")


_COMMA = ord(",")
_QUOTE = ord('"')
_BACKSLASH = ord("\\")


def _string_end(raw: Raw, at: int) -> int:
    """Where the closing quote of the string is whose first character is at `at`."""
    end = raw.find(b'"', at)
    if end >= 0 and raw[end - 1] != _BACKSLASH:
        return end
    while at < len(raw):
        match = _STRING.match(raw, at, at + _SLICE_BYTES)
        end = match.end() if match else at
        if end < len(raw) and raw[end] == _QUOTE:
            return end
        if end == at:
            break
        at = end
    raise json.JSONDecodeError("Unterminated string", "", 0)


def _check(raw: Raw, at: int, end: int) -> None:
    """Raise ValueError unless these bytes are the content of a JSON string in UTF-8."""
    while at < end:
        piece = bytes(raw[at : min(end, at + _SLICE_BYTES)])
        if b"\\" not in piece and len(piece.translate(None, _CONTROLS)) == len(piece):
            whole = len(piece)
        else:
            match = _CONTENT.match(piece)
            whole = match.end() if match else 0
        if not piece.isascii():
            whole = min(whole, _utf8_end(piece[:whole], last=at + whole == end))
        if not whole:
            raise json.JSONDecodeError("Invalid character or escape in a string", "", 0)
        at += whole


def _utf8_end(piece: bytes, *, last: bool) -> int:
    """Where the last whole character ends. Raises UnicodeDecodeError."""
    if last:
        piece.decode()
        return len(piece)
    for short in range(4):
        try:
            piece[: len(piece) - short].decode()
        except UnicodeDecodeError:
            continue
        return len(piece) - short
    piece.decode()
    return 0


def _too_complex(found: str) -> BodyTooComplex:
    return BodyTooComplex(
        f"the body has {found}",
        hint="send less in one request; few long strings cost less than many short ones",
    )
