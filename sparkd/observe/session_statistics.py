# SPDX-License-Identifier: Apache-2.0
"""The statistics of models' sessions, as objects for people and programs."""

from __future__ import annotations

from datetime import UTC, datetime

from sparkd.core.telemetry.session import described
from sparkd.lifecycle.sessions import SessionStats


def statistics(session_stats: SessionStats) -> dict[str, object]:
    """All of it; times are seconds since 1970, sizes bytes."""
    totals, running = session_stats.totals, session_stats.running
    ended = [one for one in totals.recent if one["ended_at"] is not None]
    return {
        "sessions": totals.sessions,
        "run_s": round(totals.duration_s, 3),
        "loads": totals.loads,
        "mean_load_s": round(totals.load_s / totals.loads, 3) if totals.loads else None,
        "ends": dict(totals.ends),
        "min_bytes": totals.min_bytes,
        "mean_bytes": totals.mean_bytes,
        "max_bytes": totals.max_bytes,
        "last_started_at": totals.last_started_at,
        "last_ended_at": totals.last_ended_at,
        "running": described(running) if running is not None else None,
        "recent": ended,
    }


def reference_stats(session_stats: SessionStats) -> dict[str, object]:
    """The same for clients of the gateway that this one replaces."""
    totals, running = session_stats.totals, session_stats.running
    return {
        "sessions": totals.sessions,
        "total_duration_sec": round(totals.duration_s),
        "min_mb": _mib(totals.min_bytes),
        "max_mb": _mib(totals.max_bytes),
        "mean_mb": _mib(totals.mean_bytes),
        "last_used": _iso(totals.last_started_at),
        "running": running is not None,
    }


def _mib(size: int | None) -> int | None:
    return None if size is None else round(size / (1 << 20))


def _iso(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
