# SPDX-License-Identifier: Apache-2.0
"""The output of `sparkctl`: tables, times, JSON, errors. Pure but for the two that print."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from sparkd.core.errors import SparkdError

NOTHING = "-"
"""Stands in a table where there is no value."""
CLEAR_LINE = "\r\033[K"
"""Makes a terminal write the line again from its beginning."""

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with minimal column widths, two spaces apart; the last column is not padded."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def age(duration_s: float) -> str:
    """A duration in its two largest units, whole seconds: `42s`, `3m12s`, `2h5m`, `1d3h`."""
    rest_s = max(0, int(duration_s))
    parts: list[str] = []
    for unit, unit_s in _UNITS:
        count, rest_s = divmod(rest_s, unit_s)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
    return "".join(parts[:2]) or "0s"


def timestamp(at: float | None) -> str | None:
    """Wall time as RFC 3339 in UTC, whole seconds, for JSON."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def error_text(error: SparkdError) -> str:
    """The text for stderr: one line, and a second one for the hint, if any."""
    text = f"sparkctl: {printable(error.message)}"
    return f"{text}\n  hint: {printable(error.hint)}" if error.hint else text


def printable(text: str) -> str:
    """The text as one line without terminal control characters: it may quote a model's output."""
    return "".join(c if c.isprintable() else " " for c in text)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def print_error(error: SparkdError) -> None:
    print(error_text(error), file=sys.stderr)
