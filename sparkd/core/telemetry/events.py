# SPDX-License-Identifier: Apache-2.0
"""Events in their forms: journal entry, JSON, server-sent event, line of text.

The journal is the one source of events: an entry with SPARKD_EVENT reaches all
listeners. Its fields become the keys of the event, SPARKD_DURATION_MS as `duration_ms`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

_PREFIX = "SPARKD_"
_NUMBERS = frozenset(
    {"available_bytes", "duration_ms", "exit_code", "models", "percent", "status", "waiting"}
)

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_NUMBER = re.compile(r"-?[0-9]{1,18}")


class EventKind(Enum):
    """The kinds of entries one can ask journalctl for: `journalctl MESSAGE_ID=...`."""

    DAEMON_READY = "daemon-ready", "5f7a2c1e9d0b4c68a1f3e25d7b9046c1"
    DAEMON_STOPPING = "daemon-stopping", "b2d1906e4f3a4e7c8b15a07f6c92d3e4"
    MODEL_STARTING = "model-starting", "0c4e8a7d3b214f9e9a6d51c28f7e60b5"
    MODEL_READY = "model-ready", "e81f5b3c6a9d4270b7c42d1e08f3a596"
    MODEL_STOPPED = "model-stopped", "93a6d20f7e5b4c18a4e917c3d26b805f"
    MODEL_FAILED = "model-failed", "d47c19e2b8064f3da5917e60c3f2b48a"
    MODEL_ENDED = "model-ended", "f72750ea5195448a900aceb86ec37f51"
    MODEL_ADOPTED = "model-adopted", "6be09f14d7a2453c8e31b5c7f0a9d862"
    MODEL_ASLEEP = "model-asleep", "3d1f0c7ab26e4b0f9c5e8a41d7f2b690"
    MODEL_AWAKE = "model-awake", "a4c96e5d0f8b43219b7d20e6c8f1537a"
    REQUEST = "request", "1fa85c7e20d94b6bb3e7f4960a5d2c83"
    LOAD_PROGRESS = "load-progress", "0443293d84f94d11a404ec75e722960f"
    QUEUE = "queue", "0337a12ae9a9495bb601d64d576aff30"
    MEMORY_LOW = "memory-low", "eed3b6c6936b4f6fa7f66d8953c33472"
    WRONG_KEYS = "wrong-keys", "7aff1b2e8d4d44448f1d440d49a0bf0c"
    IDLE_CHECK = "idle-check", "a70e3d5b91c84f26bd12968cf4e7503d"

    def __init__(self, label: str, message_id: str) -> None:
        self.label = label
        self.message_id = message_id


CHATTY = (EventKind.REQUEST, EventKind.IDLE_CHECK)
"""The kinds with many events, which listeners get on request only."""


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
