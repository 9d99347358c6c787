# SPDX-License-Identifier: Apache-2.0
"""`sparkctl stats`: how often and how long models ran, and how much memory they took.

It reads the statistics on disk and needs neither the daemon nor Podman.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from sparkd.core.errors import NotFound
from sparkd.core.quantities import readable_size
from sparkd.lifecycle.sessions import Sessions, SessionStats
from sparkd.observe.session_statistics import statistics
from sparkd.sparkctl import catalog, output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

_HEADER = ("MODEL", "RUNS", "RUN TIME", "LOAD", "MEM MIN", "MEAN", "MAX", "LAST RUN", "ENDED BY")


def run(options: Options) -> Exit:
    privileges.act_as_sparkd(options.words)
    found = _all_session_stats(Sessions(catalog.layout()), options.model)
    if options.json:
        output.print_json({model_id: statistics(one) for model_id, one in found.items()})
    else:
        print(text(found, time.time()))
    return Exit.OK


def text(found: Mapping[str, SessionStats], now: float) -> str:
    """The table for people; `now` is wall time."""
    if not found:
        return "no model has run yet"
    return output.table(_HEADER, [_row(m, one, now) for m, one in found.items()])


def _all_session_stats(sessions: Sessions, model_id: str) -> dict[str, SessionStats]:
    found = sessions.all()
    if not model_id:
        return found
    if model_id in found:
        return {model_id: found[model_id]}
    known = catalog.names(catalog.load())
    if model_id not in known:
        raise catalog.unknown(model_id, {*known, *found})
    raise NotFound(
        f"model {model_id!r} has not run yet", hint="sudo sparkctl stats", code="no_stats"
    )


def _row(model_id: str, session_stats: SessionStats, now: float) -> tuple[str, ...]:
    totals, running = session_stats.totals, session_stats.running
    load = output.age(totals.load_s / totals.loads) if totals.loads else output.NOTHING
    if running is not None:
        last = "now"
    elif totals.last_ended_at is None:
        last = output.NOTHING
    else:
        last = f"{output.age(now - totals.last_ended_at)} ago"
    ends = sorted(totals.ends.items(), key=lambda end: -end[1])
    return (
        model_id,
        str(totals.sessions),
        output.age(totals.duration_s),
        load,
        _size(totals.min_bytes),
        _size(totals.mean_bytes),
        _size(totals.max_bytes),
        last,
        ", ".join(f"{reason} {count}" for reason, count in ends) or output.NOTHING,
    )


def _size(size: int | None) -> str:
    return output.NOTHING if size is None else readable_size(size)
