# SPDX-License-Identifier: Apache-2.0
"""Durations (`1h30m`), sizes (`8GiB`) and counts as people write them, to numbers and back.

Knows nothing of files or ranges; a unit is always written, so that no reader has to guess it.
"""

from __future__ import annotations

import re

from sparkd.core.errors import RequestError

_DURATION = re.compile(
    r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m(?!s))?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?"
)
_UNIT_MS = (3_600_000, 60_000, 1_000, 1)
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB|TiB)")
_GIB = 1 << 30
_UNIT_BYTES = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_SHOWN_CHARS = 60


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `20m`, `1h30m`, `500ms`; raises RequestError."""
    match = _DURATION.fullmatch(text)
    if not text or not match:
        raise RequestError(
            f"{_shown(text)} is not a duration", hint="write it like 500ms, 90s or 1h30m"
        )
    counts = (int(count or 0) for count in match.groups())
    return sum(count * ms for count, ms in zip(counts, _UNIT_MS, strict=True)) / 1000


def format_duration(duration_s: float) -> str:
    """The shortest text that `parse_duration` reads as the same number of milliseconds."""
    rest_ms = round(duration_s * 1000)
    text = ""
    for unit, unit_ms in zip(("h", "m", "s", "ms"), _UNIT_MS, strict=True):
        count, rest_ms = divmod(rest_ms, unit_ms)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_size(text: str) -> int:
    """Bytes of `8GiB`, `512MiB`, `64KiB`, `100B`; raises RequestError."""
    match = _SIZE.fullmatch(text)
    if match:
        return int(match[1]) * _UNIT_BYTES[match[2]]
    raise RequestError(f"{_shown(text)} is not a size", hint="write it like 512MiB or 8GiB")


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads as the same number."""
    if size_bytes == 0:
        return "0B"
    unit, unit_bytes = next(row for row in _UNIT_BYTES.items() if size_bytes % row[1] == 0)
    return f"{size_bytes // unit_bytes}{unit}"


def readable_size(size_bytes: int) -> str:
    """About that much, for people: `12.3 GiB`, `45 KiB`, `0 B`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes >= _UNIT_BYTES[unit]:
            count = size_bytes / _UNIT_BYTES[unit]
            return f"{count:.1f} {unit}" if count < 100 else f"{count:.0f} {unit}"
    return f"{size_bytes} B"


def count_of(count: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")


def gib_of(size_bytes: int) -> str:
    """A size for people who compare it with the memory of a host."""
    return f"{size_bytes / _GIB:.1f} GiB"
