# SPDX-License-Identifier: Apache-2.0
"""`sparkctl ps`: the running models, also those that left the catalog."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sparkd.core.names import Names
from sparkd.core.observed import ModelReading, Snapshot
from sparkd.sparkctl import catalog, output, reading
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

_HEADER = ("MODEL", "STATE", "UP", "IN USE", "IDLE CHECK", "PID", "ENDPOINT", "SCOPE")
_FOREVER_AT = 1e11
"""A time beyond any timer: systemd reports infinity for a fired timer whose pass is running."""


def run(options: Options) -> Exit:
    config = catalog.load()
    found = running(reading.read_snapshot(config, options.words))
    if options.json:
        output.print_json([as_json(one) for one in found])
    else:
        print(text(found, time.time()))
    return Exit.OK


def running(snapshot: Snapshot) -> list[ModelReading]:
    """The readings of the models whose processes exist, by id."""
    found = (snapshot.models[model_id] for model_id in sorted(snapshot.models))
    return [one for one in found if one.running]


def as_json(found: ModelReading) -> dict[str, object]:
    instance = found.instance
    return {
        "id": found.model_id,
        "state": found.state,
        "started_at": output.timestamp(instance.started_at if instance else None),
        "in_use": found.in_use,
        "in_transition": found.in_transition,
        "last_used_at": output.timestamp(found.last_used_at),
        "idle_check_at": output.timestamp(_idle_check_at(found)),
        "pid": instance.pid if instance else None,
        "endpoint": str(instance.endpoint) if instance else None,
        "scope": Names(found.model_id).scope,
        "container": Names(found.model_id).container,
    }


def text(found: Sequence[ModelReading], now: float) -> str:
    """The table for people; `now` is wall time."""
    if not found:
        return "no model is running"
    return output.table(_HEADER, [_row(one, now) for one in found])


def _row(found: ModelReading, now: float) -> tuple[str, ...]:
    instance, check_at = found.instance, _idle_check_at(found)
    return (
        found.model_id,
        found.state,
        output.age(now - instance.started_at) if instance else output.NOTHING,
        "yes" if found.in_use else "no",
        f"in {output.age(check_at - now)}" if check_at is not None else output.NOTHING,
        str(instance.pid) if instance else output.NOTHING,
        str(instance.endpoint) if instance else output.NOTHING,
        Names(found.model_id).scope,
    )


def _idle_check_at(found: ModelReading) -> float | None:
    check_at = found.idle_check_at
    return check_at if check_at is not None and check_at < _FOREVER_AT else None
