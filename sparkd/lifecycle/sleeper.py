# SPDX-License-Identifier: Apache-2.0
"""Sleep of a model in place of a stop, and its waking in place of a start.

The sleep marker is written before the engine is told, and removed after it has answered as it did
before. While there is one no request may use the model; whether it sleeps or was left half way is
told by the locks, which the engine lets go of when it sleeps and takes again before it wakes
(`sparkd/in_container/sparkd_sleep.py`). So a kill at any step leaves a model that the next process
wakes or stops.

Call with the model's transition held; for sleep with its activity held exclusively too.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from sparkd.adapters.engine.client import EngineClient
from sparkd.adapters.failpoints import failpoint
from sparkd.adapters.files.records import Records, SleepMarker
from sparkd.adapters.journal.writer import NOTICE, fields
from sparkd.adapters.proc.memory import MemoryProbe
from sparkd.core.errors import SparkdError, UpstreamLost
from sparkd.core.model import ModelSpec
from sparkd.core.observed import Instance
from sparkd.core.telemetry.events import EventKind
from sparkd.lifecycle.start.launcher import SlotTaken

log = logging.getLogger(__name__)

_SLEEP_TIMEOUT_S = 60.0
"""Level 1 copies the weights to main memory; the first time was seen to take 7.5 s for 15 GiB."""
_ANSWER_TIMEOUT_S = 60.0
_SAID_LIMIT_BYTES = 64 << 10
"""Of a completion of a few tokens, or of a short object."""
_TEXT_LIMIT = 4096
"""Characters of the completion; the sleep marker keeps them."""
QUESTION: Final = "1, 2, 3, 5, 8, 13,"
"""Its most probable continuation is compared before and after; it contains no user data."""
_ANSWER_TOKENS = 16


class SleepFailed(SparkdError):
    """It did not go to sleep, did not wake, or is not what it was before. No client is told: it is
    stopped, and started again where it was wanted."""


@dataclass(frozen=True, slots=True)
class Sleeper:
    records: Records
    probe: MemoryProbe

    async def put_to_sleep(self, spec: ModelSpec, instance: Instance, *, wanted: str) -> bool:
        """Put it to sleep for the one that is wanted; true once it sleeps and holds no lock.

        False when it did not: stop it then.
        """
        began_s = time.monotonic()
        try:
            await self._put(spec, instance)
        except SparkdError as error:
            log.warning("model %s is stopped instead of put to sleep: %s", spec.model_id, error)
            return False
        took_ms = round((time.monotonic() - began_s) * 1000)
        log.log(
            NOTICE,
            "model %s sleeps, to make room for %s",
            spec.model_id,
            wanted,
            extra=fields(
                EventKind.MODEL_ASLEEP, model=spec.model_id, wanted=wanted, duration_ms=took_ms
            ),
        )
        return True

    async def _put(self, spec: ModelSpec, instance: Instance) -> None:
        answer = await self._answer(spec, instance)
        self.records.add_sleep_marker(
            spec.model_id, SleepMarker(container_id=instance.container_id, answer=answer)
        )
        failpoint("nap-noted")
        await _post(instance, f"/sparkd/sleep?level={self._level(spec)}", _SLEEP_TIMEOUT_S)
        failpoint("nap-begun")

    async def wake(self, spec: ModelSpec, instance: Instance) -> None:
        """Returns once it is awake and says what it said before.

        Raises SlotTaken when another process has the GPU: it sleeps on. Raises SleepFailed when it
        did not wake within the model's load timeout, or says something else, and HostError when
        its sleep marker cannot be removed: stop it then.
        """
        sleep_marker = self.records.sleep_marker(spec.model_id)
        await _post(instance, "/sparkd/wake", spec.load_timeout_s)
        failpoint("nap-ended")
        answer = await self._answer(spec, instance)
        if sleep_marker is None or answer != sleep_marker.answer:
            raise SleepFailed(f"model {spec.model_id!r} does not answer as it did before its sleep")
        self.records.clear_sleep_marker(spec.model_id)

    def _level(self, spec: ModelSpec) -> int:
        """1 keeps the weights in main memory, where that is another one and has room for them."""
        if not self.probe.discrete or spec.weights is None:
            return 2
        return 1 if _size(spec.weights.path) < self.probe.available_bytes() // 2 else 2

    async def _answer(self, spec: ModelSpec, instance: Instance) -> str:
        asked = {
            "model": spec.model_id,
            "prompt": QUESTION,
            "max_tokens": _ANSWER_TOKENS,
            "temperature": 0,
        }
        said: Any = await _post(instance, "/v1/completions", _ANSWER_TIMEOUT_S, asked)
        try:
            text = said["choices"][0]["text"]
        except (LookupError, TypeError):
            text = None
        if not isinstance(text, str) or len(text) > _TEXT_LIMIT:
            raise SleepFailed(f"model {spec.model_id!r} did not complete the question with text")
        return text.encode(errors="replace").decode()


async def _post(
    instance: Instance, target: str, timeout_s: float, body: Mapping[str, object] | None = None
) -> object:
    """What the model's server answers, as JSON. Raises SleepFailed, and SlotTaken for a 409."""
    model_id, content = instance.model_id, json.dumps(body or {}).encode()
    async with EngineClient(instance.endpoint) as engine:
        try:
            told = await engine.fetch(
                target, limit_bytes=_SAID_LIMIT_BYTES, timeout_s=timeout_s, post=content
            )
        except UpstreamLost as error:
            raise SleepFailed(f"model {model_id!r}: {error.message}") from error
    if told.status == HTTPStatus.CONFLICT:
        raise SlotTaken(model_id, None, started=True)
    if told.status != HTTPStatus.OK:
        raise SleepFailed(
            f"model {model_id!r} answered {target} with {told.status}: {told.text[:200]!r}"
        )
    try:
        return json.loads(told.body)
    except (ValueError, RecursionError):
        raise SleepFailed(f"model {model_id!r} answered {target} with no JSON") from None


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())
