# SPDX-License-Identifier: Apache-2.0
"""Records of models across processes: loads, failures in a row, due comebacks, sleep markers.

Loads are kept for good (in the state directory): they tell how long a load takes and what a model
needs. Failures are kept until the next boot (in the runtime directory), a success, or an admin; so
is which utility models had to leave for an exclusive one and are to come back, and which models
sleep.
Every file is replaced as a whole, so it is never half written; one that cannot be read counts as
absent, for none of this is worth failing a request.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkd.adapters.files.config_files import write_atomically
from sparkd.core.errors import HostError, SparkdError
from sparkd.core.json.typed import restored
from sparkd.core.names import Layout, Names, unescape

log = logging.getLogger(__name__)

_LOADS_KEPT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """The last loads of a model that ended well, oldest first."""

    durations_s: tuple[float, ...] = ()
    peaks_bytes: tuple[int, ...] = ()

    @property
    def typical_s(self) -> float | None:
        return statistics.median(self.durations_s) if self.durations_s else None

    @property
    def peak_bytes(self) -> int | None:
        """What a load takes; the median, because what else the host did meanwhile counts too."""
        return statistics.median_high(self.peaks_bytes) if self.peaks_bytes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Starts of one model, as configured in `spec_hash`, that failed in a row."""

    count: int
    at_s: float
    """When the last one did, on the monotonic clock: the file does not outlive the boot."""
    spec_hash: str
    code: str
    message: str
    hint: str
    http_status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepMarker:
    """A container that sleeps, or is on its way there or back, and what it has to know after it."""

    container_id: str
    answer: str
    """To the question by which a wake is checked."""


@dataclass(frozen=True, slots=True)
class Records:
    layout: Layout

    def loads(self, model_id: str) -> Loads:
        return restored(Loads, recall(self._loads_file(model_id))) or Loads()

    def add_load(self, model_id: str, duration_s: float, peak_bytes: int | None) -> None:
        before = self.loads(model_id)
        peaks = before.peaks_bytes + (() if peak_bytes is None else (peak_bytes,))
        remember(
            self._loads_file(model_id),
            {
                "durations_s": [*before.durations_s, round(duration_s, 3)][-_LOADS_KEPT:],
                "peaks_bytes": list(peaks)[-_LOADS_KEPT:],
                "last_ready_at": round(time.time(), 3),
            },
        )

    def failure(self, model_id: str) -> Failure | None:
        found = recall(self._failure_file(model_id))
        return restored(Failure, found) if found else None

    def add_failure(self, model_id: str, failure: Failure) -> None:
        remember(
            self._failure_file(model_id),
            {name: getattr(failure, name) for name in Failure.__dataclass_fields__},
        )

    def add_failed_start(self, model_id: str, spec_hash: str, error: SparkdError) -> None:
        """Count a failed start of a model as configured; the policy delays the next one."""
        before = self.failure(model_id)
        count = before.count if before is not None and before.spec_hash == spec_hash else 0
        failure = Failure(
            count=count + 1,
            at_s=time.monotonic(),
            spec_hash=spec_hash,
            code=error.code,
            message=error.message,
            hint=error.hint,
            http_status=error.http_status,
        )
        self.add_failure(model_id, failure)

    def clear_failure(self, model_id: str) -> None:
        self._failure_file(model_id).unlink(missing_ok=True)

    def comebacks(self) -> list[str]:
        """The models that are to come back, by id."""
        try:
            names = [path.name for path in self.layout.comebacks_dir.iterdir()]
        except FileNotFoundError:
            return []
        # What a writer that was killed left is hidden.
        return sorted(unescape(name) for name in names if not name.startswith("."))

    def add_comeback(self, model_id: str, made_room_for: str) -> None:
        remember(self._comeback_file(model_id), {"made_room_for": made_room_for})

    def clear_comeback(self, model_id: str) -> None:
        self._comeback_file(model_id).unlink(missing_ok=True)

    def sleep_marker(self, model_id: str) -> SleepMarker | None:
        """Compare its container with the one that runs: a dead sleeper may have left it."""
        found = recall(self.layout.sleep_marker_file(Names(model_id)))
        return restored(SleepMarker, found) if found else None

    def has_sleep_marker(self, model_id: str) -> bool:
        """Whether there is a sleep marker; each request of a model that can sleep asks."""
        return self.layout.sleep_marker_file(Names(model_id)).exists()

    def add_sleep_marker(self, model_id: str, sleep_marker: SleepMarker) -> None:
        """Raises HostError: a sleeping model without a marker would count as awake."""
        content = {"container_id": sleep_marker.container_id, "answer": sleep_marker.answer}
        _write(self.layout.sleep_marker_file(Names(model_id)), content)

    def clear_sleep_marker(self, model_id: str) -> None:
        """Raises HostError: who is awake with it would be taken for asleep, at every request."""
        path = self.layout.sleep_marker_file(Names(model_id))
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(
                f"cannot remove {path}: {error.strerror}", hint=f"ls -l {path}"
            ) from error

    def pinned(self, model_id: str) -> bool:
        """Whether an admin has pinned it since the host booted."""
        return self._pin_file(model_id).exists()

    def pin(self, model_id: str) -> None:
        """Raises HostError: who is told that it is pinned relies on it."""
        _write(self._pin_file(model_id), {"since": round(time.time(), 3)})

    def unpin(self, model_id: str) -> None:
        self._pin_file(model_id).unlink(missing_ok=True)

    def _loads_file(self, model_id: str) -> Path:
        return self.layout.stats_dir / f"{Names(model_id).escaped}.json"

    def _failure_file(self, model_id: str) -> Path:
        return self.layout.failures_dir / f"{Names(model_id).escaped}.json"

    def _comeback_file(self, model_id: str) -> Path:
        return self.layout.comebacks_dir / Names(model_id).escaped

    def _pin_file(self, model_id: str) -> Path:
        return self.layout.pins_dir / Names(model_id).escaped


def remember(path: Path, content: Mapping[str, Any]) -> None:
    """Keep an object for `recall`. Nothing depends on it so much that failing would be better."""
    try:
        _write(path, content)
    except HostError as error:
        log.warning("cannot remember %s: %s", path, error)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"cannot make {path.parent}: {error.strerror}") from error
    write_atomically(path, json.dumps(content).encode(), mode=0o640)


def recall(path: Path) -> dict[str, Any]:
    """What was remembered there; nothing if it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
