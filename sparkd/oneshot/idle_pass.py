# SPDX-License-Identifier: Apache-2.0
"""Entry point of `sparkd-idle@X.service`: one idle check of model X.

Started by the model's transient timers. An error ends it with a status that makes systemd run it
again, so that a running model always has a next pass.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from sparkd.adapters.files.config_files import load_from
from sparkd.adapters.journal import writer
from sparkd.adapters.journal.writer import fields
from sparkd.core.errors import SparkdError
from sparkd.core.names import unescape
from sparkd.core.telemetry.events import EventKind
from sparkd.runtime import build

log = logging.getLogger(__name__)

EX_USAGE = 64
EX_TEMPFAIL = 75


def main(argv: Sequence[str] | None = None) -> int:
    """`sparkd-idle MODEL`, the id escaped as in unit names; the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    writer.configure()
    if len(arguments) != 1:
        print("usage: sparkd-idle MODEL (escaped as in sparkd-idle@MODEL.service)", file=sys.stderr)
        return EX_USAGE
    model_id = unescape(arguments[0])
    try:
        outcome = asyncio.run(_pass(model_id))
    except SparkdError as error:
        log.error("idle check of model %s failed: %s", model_id, error)
        return EX_TEMPFAIL
    log.info(
        "idle check of model %s: %s",
        model_id,
        outcome,
        extra=fields(EventKind.IDLE_CHECK, model=model_id, outcome=outcome),
    )
    return 0


async def _pass(model_id: str) -> str:
    runtime = build()
    config = load_from(os.environ, runtime.layout)
    return await runtime.idle_check.idle_pass(config, model_id)


if __name__ == "__main__":
    sys.exit(main())
