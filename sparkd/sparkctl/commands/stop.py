# SPDX-License-Identifier: Apache-2.0
"""`sparkctl stop`: stop a model, even one that the catalog no longer has."""

from __future__ import annotations

import asyncio
import time

from sparkd.adapters.journal import writer
from sparkd.core.model import Config
from sparkd.core.names import Names
from sparkd.runtime import Runtime, build
from sparkd.sparkctl import catalog, output, privileges, progress
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit


def run(options: Options) -> Exit:
    privileges.act_as_sparkd(options.words)
    config = catalog.load()
    model_id = catalog.id_of(config, options.model)
    writer.configure(journal_only=True)
    runtime = build()
    asyncio.run(_require_known(runtime, config, model_id))
    began_s = time.monotonic()
    what = "stopping" if options.now else "stopping, after the requests that it serves"
    stopped = progress.run(
        runtime.stopper.stop(config, model_id, drain=not options.now), lambda: f"{model_id}: {what}"
    )
    took_s = time.monotonic() - began_s
    if options.json:
        output.print_json(as_json(model_id, took_s, stopped=stopped))
    else:
        print(text(model_id, stopped=stopped))
    return Exit.OK


def text(model_id: str, *, stopped: bool) -> str:
    return f"{model_id} is stopped" if stopped else f"{model_id} was not running"


def as_json(model_id: str, took_s: float, *, stopped: bool) -> dict[str, object]:
    return {"id": model_id, "state": "stopped", "stopped": stopped, "seconds": round(took_s, 3)}


async def _require_known(runtime: Runtime, config: Config, model_id: str) -> None:
    """Raise NotFound for a model that neither the catalog nor the host knows."""
    known = catalog.names(config)
    if model_id not in known:
        # The catalog may have lost the model while it ran, or a run may have left files behind.
        snapshot = await runtime.observer.read(config)
        left = runtime.layout.endpoint_dir(Names(model_id)).exists()
        if model_id not in snapshot.models and not left:
            raise catalog.unknown(model_id, {*known, *snapshot.models})
