# SPDX-License-Identifier: Apache-2.0
"""`sparkctl preload`: start the models that `preload` in sparkd.yaml names, one after the other.

sparkd-preload.service runs it at boot. A model that fails does not prevent the others' starts.
"""

from __future__ import annotations

import asyncio

from sparkd.adapters.journal import writer
from sparkd.core.errors import SparkdError
from sparkd.core.model import Config
from sparkd.runtime import build
from sparkd.sparkctl import catalog, output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit


def run(options: Options) -> Exit:
    privileges.act_as_sparkd(options.words)
    config = catalog.load()
    writer.configure(journal_only=True)
    failed = asyncio.run(_start_all(config))
    if options.json:
        wanted = config.settings.preload
        output.print_json([{"id": name, "ready": name not in failed} for name in wanted])
    for error in failed.values():
        output.print_error(error)
    return Exit.START_FAILED if failed else Exit.OK


async def _start_all(config: Config) -> dict[str, SparkdError]:
    """Start each model; return the errors of those that did not become ready, by id."""
    runtime = build()
    failed: dict[str, SparkdError] = {}
    try:
        for model_id in config.settings.preload:
            try:
                grant = await runtime.ensurer.grant(config, catalog.find(config, model_id))
                grant.lease.close()
            except SparkdError as error:
                failed[model_id] = error
    finally:
        await runtime.close()
    return failed
