# SPDX-License-Identifier: Apache-2.0
"""Sessions on disk, across processes: the running one of a model, and the totals of all.

The process that starts a model opens its session, the one that stops it ends it, and users add what
they see. No process has to be alive at the end: a session that was left open is ended by the
next, as of when it was last seen. Files are replaced as a whole. A session is added to the totals
before it is removed, and the totals name the last one, so that being killed in between costs
nothing.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from sparkd.adapters.files.records import recall, remember
from sparkd.adapters.proc import usage
from sparkd.core.json.typed import restored
from sparkd.core.names import Layout, Names, unescape
from sparkd.core.observed import Instance
from sparkd.core.telemetry.session import EndReason, Session, Totals, added, begun, kept

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionStats:
    """What is known of a model's sessions."""

    totals: Totals
    """Of all, the running one included."""
    running: Session | None


@dataclass(frozen=True, slots=True)
class Sessions:
    layout: Layout

    def open(self, instance: Instance, *, load_s: float | None, grown_bytes: int | None) -> None:
        """At the end of a load, or when a model without a session was found."""
        model_id = instance.model_id
        before = self._running(model_id)
        if before is not None:
            if before.container_id == instance.container_id:
                return
            self.end(model_id, EndReason.ENDED, ended_at=before.seen_at)
        session = Session(
            container_id=instance.container_id,
            pid=instance.pid,
            pid_started=usage.start_of(instance.pid) or 0,
            started_at=instance.started_at,
            seen_at=time.time(),
            load_s=None if load_s is None else round(load_s, 3),
        )
        own_bytes = usage.usage(instance.pid).memory_bytes
        begin = begun(session, own_bytes=own_bytes, grown_bytes=grown_bytes)
        remember(self._running_file(model_id), kept(begin))

    def sample(self, model_id: str, *, stopping: EndReason | None = None) -> None:
        """Look at what it takes now, and note whether and why it is about to be stopped.

        Call while no other process can stop it. One whose process is gone by then was not stopped.
        """
        session = self._running(model_id)
        if session is not None and not _alive(session):
            if stopping is not None:
                self.end(model_id, EndReason.ENDED, ended_at=session.seen_at)
        elif session is not None:
            own_bytes = usage.usage(session.pid).memory_bytes
            seen = replace(session.sampled(own_bytes, time.time()), stopping=stopping)
            remember(self._running_file(model_id), kept(seen))

    def open_session(self, model_id: str) -> Session | None:
        """The open session; its process may be gone."""
        return self._running(model_id)

    def alive(self, session: Session) -> bool:
        """Whether the process of a session runs."""
        return _alive(session)

    def was_stopped(self, model_id: str, container_id: str) -> bool:
        """Whether sparkd stopped this container, or had begun to."""
        session = self._running(model_id)
        if session is not None and session.container_id == container_id:
            return session.stopping is not None
        totals = self._totals(model_id)
        if totals.last_container_id != container_id or not totals.recent:
            return False
        return totals.recent[-1].get("reason") != EndReason.ENDED

    def end(self, model_id: str, reason: EndReason, *, ended_at: float | None = None) -> bool:
        """End the open session, now unless given; whether it was this call that ended it."""
        session = self._running(model_id)
        if session is None:
            return False
        ended = replace(
            session,
            reason=_reason(session) if reason is EndReason.ENDED else reason,
            ended_at=time.time() if ended_at is None else max(ended_at, session.seen_at),
        )
        remember(self._totals_file(model_id), kept(added(self._totals(model_id), ended)))
        try:
            self._running_file(model_id).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("cannot end the session of %s: %s", model_id, error)
        return True

    def session_stats(self, model_id: str) -> SessionStats | None:
        """All that is known of the model; None when it never ran. Changes nothing."""
        # In this order: one that ends in between is in the totals, and counts once.
        running, totals = self._running(model_id), self._totals(model_id)
        if running is None:
            return SessionStats(totals, None) if totals.sessions else None
        if _alive(running):
            running = replace(running, seen_at=time.time())
            return SessionStats(added(totals, running), running)
        ended = replace(running, reason=_reason(running), ended_at=running.seen_at)
        return SessionStats(added(totals, ended), None)

    def all(self) -> dict[str, SessionStats]:
        """Every model that ever ran."""
        found = {
            unescape(path.name.removesuffix(".json"))
            for directory in (self._running_dir, self._totals_dir)
            for path in directory.glob("*.json")
        }
        session_stats_by_model = {
            model_id: self.session_stats(model_id) for model_id in sorted(found)
        }
        return {
            model_id: one for model_id, one in session_stats_by_model.items() if one is not None
        }

    @property
    def _running_dir(self) -> Path:
        return self.layout.stats_dir / "running"

    @property
    def _totals_dir(self) -> Path:
        return self.layout.stats_dir / "sessions"

    def _running_file(self, model_id: str) -> Path:
        return self._running_dir / f"{Names(model_id).escaped}.json"

    def _totals_file(self, model_id: str) -> Path:
        return self._totals_dir / f"{Names(model_id).escaped}.json"

    def _running(self, model_id: str) -> Session | None:
        session = restored(Session, recall(self._running_file(model_id)))
        if session is None or session.container_id == self._totals(model_id).last_container_id:
            return None
        return session

    def _totals(self, model_id: str) -> Totals:
        return restored(Totals, recall(self._totals_file(model_id))) or Totals()


def _reason(session: Session) -> str:
    """For a session whose process is gone for an unknown reason."""
    return session.stopping or EndReason.ENDED


def _alive(session: Session) -> bool:
    return usage.start_of(session.pid) == session.pid_started
