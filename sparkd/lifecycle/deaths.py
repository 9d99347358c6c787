# SPDX-License-Identifier: Apache-2.0
"""Reports of models that ended although sparkd did not stop them: one each, with its reason.

Several processes can notice a death: the gateway that watches the process, an idle pass, the next
start, a stop. Each of them calls `tell`; the one that ends the open session tells. Exit codes do
not decide whether an end was asked for: vLLM's server ends with 0 when its engine has died.
A process that stops a model notes that in its session before, and that decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field

from sparkd.adapters.files.records import Failure, Records
from sparkd.adapters.journal.reader import (
    dropped_lines,
    killed_for_memory,
    last_lines,
    stopped_by_hand,
)
from sparkd.adapters.journal.writer import fields
from sparkd.adapters.podman.client import ContainerReading, Podman
from sparkd.adapters.proc import usage
from sparkd.core.engine.printed_text import WORDS_LINES, exit_words, last_words
from sparkd.core.errors import HostError
from sparkd.core.names import Names
from sparkd.core.telemetry.events import EventKind
from sparkd.core.telemetry.session import EndReason, Session
from sparkd.lifecycle.sessions import Sessions

log = logging.getLogger(__name__)

_EXIT_RECORD_TIMEOUT_S = 10.0
"""Longest time that conmon may take to record an exit that the kernel has already reported: before
it records the exit, it passes all remaining output to journald.
"""
_EXIT_RECORD_PAUSE_S = 0.05
_STOP_CODES = (0, 130, 143)
"""The exit codes of a server after SIGINT and SIGTERM, from any sender."""
CODE = "model_died"


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The end of one run of a model that sparkd did not stop."""

    message: str
    discreet: str
    """The reason without the model's last output, which may quote a request."""
    at_s: float
    """Time on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Deaths:
    podman: Podman
    sessions: Sessions
    records: Records
    last: dict[str, Death] = field(default_factory=dict)
    """The last death of each model that this process reported."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def tell(self, model_id: str) -> None:
        """Report how the model's open session ended, if its process is gone.

        On return the death has been reported, by this call or by an earlier one.
        """
        async with self._turn:
            await self._tell(model_id)

    async def _tell(self, model_id: str) -> None:
        session = self.sessions.open_session(model_id)
        if session is None or self.sessions.alive(session):
            return
        if session.stopping is not None:
            self.sessions.end(model_id, EndReason.ENDED, ended_at=session.seen_at)
            return
        reading = await recorded_exit(self.podman, session.container_id)
        finished_at = reading.finished_at if reading is not None else 0.0
        ended_at = finished_at or (time.time() if reading is None else session.seen_at)
        if not self.sessions.end(model_id, EndReason.ENDED, ended_at=ended_at):
            return
        cause = await _cause(Names(model_id), session, reading)
        death = Death(
            message=f"model {model_id!r} died while it served: {cause}"
            + await said(session.container_id, session.started_at),
            discreet=f"model {model_id!r} died while it served: {cause}",
            at_s=time.monotonic(),
        )
        self.last[model_id] = death
        self._remember(model_id, reading, death)
        log.warning(
            "%s",
            death.message,
            extra=fields(
                EventKind.MODEL_ENDED,
                model=model_id,
                reason=CODE,
                exit_code=reading.exit_code if reading is not None else None,
                duration_ms=round((ended_at - session.started_at) * 1000),
            ),
        )

    async def worth_keeping(self, model_id: str, container: ContainerReading) -> bool:
        """Whether a dead container explains its end: it was not stopped."""
        if not container.dead or self.sessions.was_stopped(model_id, container.container_id):
            return False
        if container.exit_code not in _STOP_CODES:
            return True
        return not await stopped_by_hand(Names(model_id).scope, container.started_at)

    def _remember(self, model_id: str, reading: ContainerReading | None, death: Death) -> None:
        """Keep the reason for `status`. It delays no start: `count` covers failed starts."""
        failure = Failure(
            count=0,
            at_s=death.at_s,
            spec_hash=reading.spec_hash if reading is not None else "",
            code=CODE,
            message=death.message,
            hint=f"sudo sparkctl logs {model_id}",
            http_status=502,
        )
        self.records.add_failure(model_id, failure)


async def recorded_exit(podman: Podman, container_id: str) -> ContainerReading | None:
    """The container of an exited process; None when its exit will not be recorded."""
    deadline = time.monotonic() + _EXIT_RECORD_TIMEOUT_S
    while time.monotonic() < deadline:
        reading = None
        with contextlib.suppress(HostError):
            reading = await podman.inspect(container_id)
            if reading is None or reading.dead:
                return reading
        if reading is not None and usage.start_of(reading.conmon_pid) is None:
            reading = await podman.inspect(container_id)
            return reading if reading is not None and reading.dead else None
        await asyncio.sleep(_EXIT_RECORD_PAUSE_S)
    return None


async def _cause(names: Names, session: Session, reading: ContainerReading | None) -> str:
    if await killed_for_memory(names.scope, session.started_at):
        return "the kernel killed it for memory"
    code = "its exit code is unknown" if reading is None else exit_words(reading.exit_code)
    if await stopped_by_hand(names.scope, session.started_at):
        return f"systemd was asked to stop its scope, {code}"
    if reading is None:
        return "its container was removed by another program, or its end was not recorded"
    return code


async def said(container_id: str, since: float) -> str:
    """The last output of a container, as the end of a message; it mentions dropped lines."""
    words = last_words(await last_lines(container_id, count=3 * WORDS_LINES))
    dropped = await dropped_lines(since)
    text = f"; its last words: {words}" if words else ""
    return text + (f"; journald dropped {dropped} lines of models" if dropped else "")
