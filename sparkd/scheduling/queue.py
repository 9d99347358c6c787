# SPDX-License-Identifier: Apache-2.0
"""The waiters of each model, their progress notices, and their grants.

Waiters live in memory only: they die with their connections. Whose turn it is, is
`scheduling.scheduler`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sparkd.adapters.journal.writer import fields
from sparkd.core.engine.load_phase import LoadProgress
from sparkd.core.errors import SparkdError
from sparkd.core.model import Config, ModelSpec
from sparkd.core.observed import Endpoint
from sparkd.core.telemetry.events import EventKind
from sparkd.lifecycle.leases import UseLease
from sparkd.scheduling.policy_input import Queued

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grant:
    """A healthy model and the right to use it; close the lease when done."""

    lease: UseLease
    endpoint: Endpoint
    queue_s: float = 0.0
    """How long it was waited for before anything was done for the model."""
    load_s: float = 0.0
    """How long its start was waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a waiter can be told."""

    model_id: str
    loading: bool
    """False while it is queued behind others."""
    why: str
    elapsed_s: float
    """Since the load began, or since the request came while it is queued."""
    typical_s: float | None
    """How long loads of this model usually take."""
    load: LoadProgress | None = None
    """How far the load is, as far as the engine says it."""


OnWait = Callable[[Progress], Awaitable[None]]


@dataclass(slots=True)
class Entry:
    """The waiters of one model, with the time each came, and the task that serves them."""

    config: Config
    spec: ModelSpec
    waiters: dict[asyncio.Future[Grant], float] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    task_since_s: float = 0.0
    why: str = "queued"
    told: str | None = None
    """The last reason to wait that was told as an event."""
    in_the_way: tuple[str, ...] = ()
    """The models whose end it waits for."""
    not_before_s: float = 0.0
    taken: int = 0
    """How often another model held the locks that a start of this one needs."""
    short: tuple[str, ...] | None = None
    """The blockers of a wait for nothing but memory, and since when they are these."""
    short_since_s: float = 0.0

    @property
    def open(self) -> bool:
        """Whether a request still waits for an outcome."""
        return any(not waiter.done() for waiter in self.waiters)

    @property
    def queued(self) -> Queued:
        now_s = time.monotonic()
        return Queued(
            spec=self.spec,
            since_s=min(self.waiters.values(), default=now_s),
            count=len(self.waiters),
            short_since_s=now_s if self.short is None else self.short_since_s,
        )

    def tell(self) -> None:
        """An event for each reason to wait; not for each waiter."""
        if self.told == self.why:
            return
        self.told = self.why
        model_id, waiting = self.spec.model_id, len(self.waiters)
        log.info(
            "%d wait for model %s: %s",
            waiting,
            model_id,
            self.why,
            extra=fields(EventKind.QUEUE, model=model_id, waiting=waiting, reason=self.why),
        )

    def tell_end(self) -> None:
        """And one when no request waits any more."""
        model_id = self.spec.model_id
        extra = fields(EventKind.QUEUE, model=model_id, waiting=0)
        log.info("no request waits for model %s any more", model_id, extra=extra)

    def fail(self, error: SparkdError) -> None:
        """Give the error to all who wait."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)


def give_back(waiter: asyncio.Future[Grant]) -> None:
    """Close the lease of a grant that came at the very moment its waiter left."""
    if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
        waiter.result().lease.close()
