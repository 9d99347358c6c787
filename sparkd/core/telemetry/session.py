# SPDX-License-Identifier: Apache-2.0
"""A session, which is one run of a model from start to end, and the totals of all sessions.

Memory is what the model takes from the host: what became less while it loaded, and from then on
that much more or less as its own processes grow or shrink. So other models and programs that come
and go meanwhile are not blamed on it, and memory that only the GPU's driver accounts for (CUDA on
GB10) is in it, as it is taken during the load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

RECENT_MAX = 20


class EndReason(StrEnum):
    """Why a session ended."""

    IDLE = "idle"
    EVICTED = "evicted"
    RECONFIGURED = "reconfigured"
    REQUESTED = "asked"
    WAKE_FAILED = "not-woken"
    """It slept, and could not be woken, or was not what it was before."""
    ENDED = "ended"
    """By itself, or by something other than sparkd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run; all sizes are samples of what the model takes."""

    container_id: str
    pid: int
    pid_started: int
    """With the pid it names one process for good (field 22 of /proc/PID/stat)."""
    started_at: float
    seen_at: float
    """When it was last known to run."""
    load_s: float | None = None
    """None when no process measured the load."""
    base_bytes: int = 0
    """What it took when it was ready ..."""
    own_bytes: int = 0
    """... and what its processes had then."""
    samples: int = 0
    sum_bytes: int = 0
    min_bytes: int | None = None
    max_bytes: int | None = None
    stopping: str | None = None
    """Why it is about to be stopped: its process may end before the stopping process notes it."""
    ended_at: float | None = None
    reason: str | None = None

    @property
    def mean_bytes(self) -> int | None:
        return round(self.sum_bytes / self.samples) if self.samples else None

    @property
    def duration_s(self) -> float:
        return max(
            0.0, (self.seen_at if self.ended_at is None else self.ended_at) - self.started_at
        )

    def taken_bytes(self, own_bytes: int) -> int:
        """What it takes when its processes have `own_bytes`."""
        return max(0, self.base_bytes + own_bytes - self.own_bytes)

    def sampled(self, own_bytes: int, at: float) -> Session:
        """With one more look at what its processes have."""
        taken = self.taken_bytes(own_bytes)
        return replace(
            self,
            seen_at=at,
            samples=self.samples + 1,
            sum_bytes=self.sum_bytes + taken,
            min_bytes=taken if self.min_bytes is None else min(self.min_bytes, taken),
            max_bytes=taken if self.max_bytes is None else max(self.max_bytes, taken),
        )


def begun(session: Session, *, own_bytes: int, grown_bytes: int | None) -> Session:
    """At the end of the load, in which the host's memory became less by `grown_bytes`."""
    base = max(own_bytes, grown_bytes or 0)
    return replace(session, base_bytes=base, own_bytes=own_bytes).sampled(
        own_bytes, session.seen_at
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """All sessions of a model."""

    sessions: int = 0
    duration_s: float = 0.0
    loads: int = 0
    load_s: float = 0.0
    ends: Mapping[str, int] = field(default_factory=dict)
    """How many sessions ended for each reason."""
    measured: int = 0
    """How many of them have sizes."""
    sum_mean_bytes: int = 0
    min_bytes: int | None = None
    max_bytes: int | None = None
    last_started_at: float | None = None
    last_ended_at: float | None = None
    last_container_id: str = ""
    recent: tuple[Mapping[str, object], ...] = ()
    """The last sessions, oldest first."""

    @property
    def mean_bytes(self) -> int | None:
        """The mean of the sessions' means, each counting the same."""
        return round(self.sum_mean_bytes / self.measured) if self.measured else None


def added(totals: Totals, session: Session) -> Totals:
    """The totals with one more session, ended or not; the same session twice counts once."""
    if session.container_id == totals.last_container_id:
        return totals
    ends = dict(totals.ends)
    if session.reason is not None:
        ends[session.reason] = ends.get(session.reason, 0) + 1
    mean = session.mean_bytes
    return Totals(
        sessions=totals.sessions + 1,
        duration_s=totals.duration_s + session.duration_s,
        loads=totals.loads + (session.load_s is not None),
        load_s=totals.load_s + (session.load_s or 0.0),
        ends=ends,
        measured=totals.measured + (mean is not None),
        sum_mean_bytes=totals.sum_mean_bytes + (mean or 0),
        min_bytes=_least(totals.min_bytes, session.min_bytes),
        max_bytes=_most(totals.max_bytes, session.max_bytes),
        last_started_at=session.started_at,
        last_ended_at=session.ended_at,
        last_container_id=session.container_id,
        recent=(*totals.recent, described(session))[-RECENT_MAX:],
    )


def described(session: Session) -> dict[str, object]:
    """A session as people and programs read it."""
    return {
        "started_at": session.started_at,
        "ended_at": session.ended_at,
        "reason": session.reason,
        "duration_s": round(session.duration_s, 3),
        "load_s": session.load_s,
        "samples": session.samples,
        "min_bytes": session.min_bytes,
        "mean_bytes": session.mean_bytes,
        "max_bytes": session.max_bytes,
    }


def _least(one: int | None, other: int | None) -> int | None:
    """The smaller one of what is there and more than nothing."""
    return min((value for value in (one, other) if value), default=None)


def _most(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def kept(value: Session | Totals) -> dict[str, Any]:
    """What is written down, for `restoring.restored`."""
    return asdict(value)
