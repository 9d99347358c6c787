# SPDX-License-Identifier: Apache-2.0
"""Entry point of `sparkd-comeback.service`: starts utility models that had to leave.

systemd starts it when the scope of an exclusive model ends, however that ended, so it needs no
daemon. Who is to come back is in the records, and stays there until it is ready again: a pass that
is killed is run again. A comeback takes no place and waits in no model's way: it is tried only
where nothing needs to be stopped for it, some times with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace

from sparkd.adapters.files.config_files import load_from
from sparkd.adapters.journal import writer
from sparkd.core.errors import SparkdError
from sparkd.core.model import Config, Lifecycle, WhenBusy
from sparkd.runtime import Runtime, build

log = logging.getLogger(__name__)

EX_TEMPFAIL = 75

_PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""The memory of the exclusive model, or its successor's load, may need as long as this."""


def main() -> int:
    """The exit status; anything but 0 makes systemd run it again."""
    writer.configure()
    try:
        asyncio.run(_bring_back())
    except SparkdError as error:
        log.error("models that had to leave do not come back yet: %s", error)
        return EX_TEMPFAIL
    return 0


async def _bring_back() -> None:
    runtime = build()
    config = load_from(os.environ, runtime.layout)
    # Of the two ways to deal with models in the way, the one that leaves them alone.
    config = replace(config, settings=replace(config.settings, busy=WhenBusy.REJECT))
    try:
        for pause_s in _PAUSES_S:
            await asyncio.sleep(pause_s)
            if await _exclusive_resident(runtime, config):
                log.info("an exclusive model runs: when it ends, comebacks are tried again")
                return
            for model_id in runtime.records.comebacks():
                await _try(runtime, config, model_id)
            if not runtime.records.comebacks():
                return
    finally:
        await runtime.close()


async def _exclusive_resident(runtime: Runtime, config: Config) -> bool:
    """Whether an exclusive model has come: its end starts the next pass."""
    snapshot = await runtime.observer.read(config)
    return any(
        snapshot.lifecycles.get(reading.model_id) is Lifecycle.EXCLUSIVE
        for reading in snapshot.running()
    )


async def _try(runtime: Runtime, config: Config, model_id: str) -> None:
    """Start one model, unless another is in its way; a ready one is off the list."""
    spec = config.models.get(model_id)
    if spec is None:
        runtime.records.clear_comeback(model_id)
        return
    try:
        grant = await runtime.ensurer.grant(config, spec)
    except SparkdError as error:
        log.warning("model %s does not come back yet: %s", model_id, error)
    else:
        grant.lease.close()
