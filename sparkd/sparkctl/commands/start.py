# SPDX-License-Identifier: Apache-2.0
"""`sparkctl start`: the start of a model as for a request, with the same locks.

Ctrl-C stops a load that this command began: it is an admin's order, and no process would watch the
host's memory afterwards. The model that was started is one like any other: its idle
timer ends it when it is idle.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from sparkd.adapters.journal import writer
from sparkd.core.model import AbandonedLoads, Config, ModelSpec
from sparkd.core.names import Names
from sparkd.core.observed import Instance
from sparkd.runtime import Runtime, build
from sparkd.scheduling.queue import OnWait, Progress
from sparkd.sparkctl import catalog, output, privileges, progress
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A ready model, and whether this command started it."""

    instance: Instance | None
    fresh: bool
    took_s: float


def run(options: Options) -> Exit:
    privileges.act_as_sparkd(options.words)
    config = catalog.load()
    spec = catalog.find(config, options.model)
    writer.configure(journal_only=True)
    runtime = build()
    endpoint_dir = runtime.layout.endpoint_dir(Names(spec.model_id))
    told: list[Progress] = []

    async def note(latest: Progress) -> None:
        told[:] = [latest]

    def doing() -> str:
        # The directory exists from the first step of a start to the end of the model.
        return doing_text(spec.model_id, told[-1] if told else None, loading=endpoint_dir.exists())

    started = progress.run(_start(runtime, config, spec, note), doing)
    if options.json:
        output.print_json(as_json(spec.model_id, started))
    else:
        print(text(spec.model_id, started))
    return Exit.OK


def doing_text(model_id: str, told: Progress | None, *, loading: bool) -> str:
    """The current step, before a duration; `told` is the last progress report of the queue."""
    if loading:
        typical = f"typically {output.age(told.typical_s)}, " if told and told.typical_s else ""
        return f"{model_id}: {typical}loading"
    why = f"{told.why}, " if told and not told.loading else ""
    return f"{model_id}: {why}waiting"


def text(model_id: str, started: Started) -> str:
    if started.fresh:
        return f"{model_id} is ready after {output.age(started.took_s)}"
    return f"{model_id} is ready; it was running already"


def as_json(model_id: str, started: Started) -> dict[str, object]:
    instance = started.instance
    return {
        "id": model_id,
        "state": "ready",
        "started": started.fresh,
        "seconds": round(started.took_s, 3),
        "pid": instance.pid if instance else None,
        "endpoint": str(instance.endpoint) if instance else None,
        "scope": Names(model_id).scope,
    }


async def _start(runtime: Runtime, config: Config, spec: ModelSpec, on_wait: OnWait) -> Started:
    began_s = time.monotonic()
    # An admin has seen the failure, or fixed its cause: no back-off here.
    runtime.records.clear_failure(spec.model_id)
    settings = replace(config.settings, abandoned_loads=AbandonedLoads.STOP)
    config = replace(config, settings=settings)
    try:
        grant = await runtime.ensurer.grant(config, spec, on_wait)
        # The use lease prevents a stop of the model, so this reads the granted instance.
        with grant.lease:
            took_s = time.monotonic() - began_s
            snapshot = await runtime.observer.read(config)
    finally:
        await runtime.close()
    instance = snapshot.models[spec.model_id].instance
    fresh = instance is not None and instance.started_s >= began_s
    return Started(instance=instance, fresh=fresh, took_s=took_s)
