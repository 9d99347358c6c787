# SPDX-License-Identifier: Apache-2.0
"""One event as the journal has it, and as listeners get it: JSON, server-sent event, line of text.

The journal is the one source of events: whoever writes an entry with SPARKD_EVENT has told it to
everybody. Its fields become the keys of the event, SPARKD_DURATION_MS as `duration_ms`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

_PREFIX = "SPARKD_"
_NUMBERS = frozenset(
    {"available_bytes", "duration_ms", "exit_code", "models", "percent", "status", "waiting"}
)

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event; `at_us` is when journald got it, in microseconds of wall time, and its id."""

    at_us: int
    name: str
    text: str
    values: Mapping[str, str | int]


def parse(line: bytes) -> Event | None:
    """One line of `journalctl -o json`; None when it is no event of ours."""
    try:
        entry = json.loads(line)
        at, name = entry["__REALTIME_TIMESTAMP"], entry["SPARKD_EVENT"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (isinstance(at, str) and _NUMBER.fullmatch(at)):
        return None
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        return None
    values = {
        key: _value(key, field_text(raw))
        for field, raw in entry.items()
        if field.startswith(_PREFIX)
        and (key := field.removeprefix(_PREFIX).lower()) not in ("event", "at")
    }
    return Event(at_us=int(at), name=name, text=field_text(entry.get("MESSAGE")), values=values)


def as_json(event: Event) -> dict[str, object]:
    """The event as one flat object."""
    return {
        "event": event.name,
        "at": event.at_us / 1e6,
        **event.values,
        "text": event.text,
    }


def as_sse(event: Event) -> bytes:
    """The event for an EventSource; its id is what `Last-Event-ID` takes."""
    data = json.dumps(as_json(event))
    return f"id: {event.at_us}\nevent: {event.name}\ndata: {data}\n\n".encode()


def _value(key: str, text: str) -> str | int:
    return int(text) if key in _NUMBERS and _NUMBER.fullmatch(text) else text


def field_text(raw: object) -> str:
    """A field's value. journalctl writes text that is not plain as a list of bytes, and a repeated
    field as a list of values."""
    if isinstance(raw, list) and raw and not isinstance(raw[-1], int):
        raw = raw[-1]
    if isinstance(raw, list):
        with contextlib.suppress(TypeError, ValueError):
            return bytes(raw).decode(errors="replace")
    return raw if isinstance(raw, str) else ""
