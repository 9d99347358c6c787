# SPDX-License-Identifier: Apache-2.0
"""The refusal of a request that may not or cannot wait: the models in its way, and a retry time.

Clients of the gateway that this one replaces read the fields and `X-` headers; here they stand
inside an error of OpenAI's shape, and every number in them is true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sparkd.core.errors import Busy
from sparkd.core.model_state import State

RETRY_AFTER_MAX_S = 60
"""Clients of OpenAI's libraries obey a Retry-After of up to a minute and ignore a longer one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A running model, for a client that wants another one. Times are wall times."""

    model_id: str
    state: State
    started_at: float
    last_used_at: float
    in_use: bool
    pinned: bool
    release_at: float
    """The earliest time of its replacement, without further requests for it."""


def busy(
    model_id: str, why: str, running: Sequence[Running], now: float, *, code: str, hint: str
) -> Busy:
    """The 429 for a request of `model_id`."""
    retry_after_s = _retry_after_s(running, now)
    summaries = [_summary(one, now) for one in running]
    error = Busy(
        f"model {model_id!r} cannot be served now: {why}",
        hint=hint,
        code=code,
        retry_after_s=retry_after_s,
    )
    error.details = {
        "busy": True,
        "requested": model_id,
        "currentModel": summaries[0] if summaries else None,
        "running": summaries,
        "retryAfterSec": retry_after_s,
    }
    if running:
        error.headers = _headers(running[0], now)
    return error


def _retry_after_s(running: Sequence[Running], now: float) -> int:
    remaining_s = max((one.release_at - now for one in running), default=0.0)
    return max(1, min(RETRY_AFTER_MAX_S, math.ceil(remaining_s)))


def _summary(one: Running, now: float) -> dict[str, object]:
    return {
        "name": one.model_id,
        "state": one.state,
        "startedAt": round(one.started_at * 1000),
        "startedAtISO": _iso(one.started_at),
        "uptimeSec": _seconds(now - one.started_at),
        "idleSec": 0 if one.in_use else _seconds(now - one.last_used_at),
        "lastSeenISO": _iso(one.last_used_at),
        "timeUntilReleaseSec": _until_release_s(one, now),
        "willAutoStop": not one.pinned,
    }


def _headers(one: Running, now: float) -> dict[str, str]:
    return {
        "x-busy-model": one.model_id,
        "x-model-uptime-sec": str(_seconds(now - one.started_at)),
        "x-model-idle-sec": "0" if one.in_use else str(_seconds(now - one.last_used_at)),
        "x-time-until-release-sec": str(_until_release_s(one, now)),
        "x-model-will-auto-stop": str(not one.pinned).lower(),
    }


def _until_release_s(one: Running, now: float) -> int:
    return _seconds(math.ceil(one.release_at - now))


def _seconds(duration_s: float) -> int:
    return max(0, int(duration_s))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).isoformat(timespec="milliseconds")
