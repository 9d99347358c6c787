# SPDX-License-Identifier: Apache-2.0
"""`sparkctl start`: bring a model up as a request would, with the same locks, and let it be.

What is given up leaves nothing behind. The model that was started is one like any other: its idle
timer ends it when nobody uses it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sparkd.commands import catalog, identity, journaling, output, progress
from sparkd.commands.arguments import Options
from sparkd.commands.exits import Exit
from sparkd.core.model import Config, Instance, ModelSpec
from sparkd.core.names import Names
from sparkd.runtime import Runtime, build


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A model that is ready, and whether it was us who started it."""

    instance: Instance | None
    fresh: bool
    took_s: float


def run(options: Options) -> Exit:
    identity.act_as_sparkd(options.words)
    config = catalog.load()
    spec = catalog.find(config, options.model)
    journaling.configure()
    runtime = build()
    endpoint_dir = runtime.layout.endpoint_dir(Names(spec.model_id))

    def doing() -> str:
        # The directory is there from the first step of a start to the end of the model.
        return f"{spec.model_id}: {'loading' if endpoint_dir.exists() else 'waiting'}"

    started = progress.run(_start(runtime, config, spec), doing)
    if options.json:
        output.print_json(as_json(spec.model_id, started))
    else:
        print(text(spec.model_id, started))
    return Exit.OK


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


async def _start(runtime: Runtime, config: Config, spec: ModelSpec) -> Started:
    began_at, began_s = time.time(), time.monotonic()
    try:
        grant = await runtime.ensurer.grant(config, spec)
        # While it is lent to us nobody stops it, so what is read now is what was granted.
        with grant.lease:
            took_s = time.monotonic() - began_s
            world = await runtime.world.read(config)
    finally:
        await runtime.close()
    instance = world.models[spec.model_id].instance
    fresh = instance is not None and instance.started_at >= began_at
    return Started(instance=instance, fresh=fresh, took_s=took_s)
