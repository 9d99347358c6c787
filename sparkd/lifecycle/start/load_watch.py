# SPDX-License-Identifier: Apache-2.0
"""The progress of each load of this process, from the engine's log output.

Runs beside a load and ends with it; a journal that cannot be read costs nothing but the phases.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from functools import partial

from sparkd.adapters.background_tasks import alongside
from sparkd.adapters.journal.reader import container_output, follow
from sparkd.adapters.journal.writer import fields
from sparkd.core.engine.load_phase import LoadProgress, advanced
from sparkd.core.observed import Instance
from sparkd.core.telemetry.events import EventKind

log = logging.getLogger(__name__)

_TOLD_STEP_PERCENT = 10
"""A large model has hundreds of shards; not each of them is an event."""


class LoadWatch:
    """The loads that are under way in this process, by model."""

    def __init__(self) -> None:
        self._loads: dict[str, LoadProgress] = {}
        self._told: dict[str, tuple[str, LoadProgress]] = {}
        """What was told last of each model's latest load, which may be watched more than once."""

    def progress(self, model_id: str) -> LoadProgress | None:
        """None for a model that this process does not wait for."""
        return self._loads.get(model_id)

    @contextlib.asynccontextmanager
    async def watching(self, instance: Instance, *, tell: bool) -> AsyncIterator[None]:
        """Know how far the instance is while the block runs; `tell` by events as well.

        The process that started the load reports; another one that waits for it only watches.
        """
        self._loads[instance.model_id] = LoadProgress()
        try:
            async with alongside("load progress", partial(self._watch, instance, tell=tell)):
                yield
        finally:
            self._loads.pop(instance.model_id, None)

    async def _watch(self, instance: Instance, *, tell: bool) -> None:
        container_id, told = self._told.get(instance.model_id, ("", LoadProgress()))
        if container_id != instance.container_id:
            told = LoadProgress()
        progress = self._loads[instance.model_id] = told
        lines = follow(*container_output(instance.container_id))
        async with contextlib.aclosing(lines):
            async for line in lines:
                progress = advanced(progress, line.decode(errors="replace"))
                self._loads[instance.model_id] = progress
                if tell and _is_news(told, progress):
                    told = progress
                    self._told[instance.model_id] = (instance.container_id, told)
                    _tell(instance, progress)


def _is_news(told: LoadProgress, progress: LoadProgress) -> bool:
    if progress.phase is not told.phase:
        return True
    step = (progress.percent or 0) - (told.percent or 0)
    return step >= _TOLD_STEP_PERCENT or (step > 0 and progress.percent == 100)


def _tell(instance: Instance, progress: LoadProgress) -> None:
    log.info(
        "model %s loads: %s",
        instance.model_id,
        progress.text,
        extra=fields(
            EventKind.LOAD_PROGRESS,
            model=instance.model_id,
            phase=progress.phase,
            percent=progress.percent,
            duration_ms=round((time.monotonic() - instance.started_s) * 1000),
        ),
    )
