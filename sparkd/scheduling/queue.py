# SPDX-License-Identifier: Apache-2.0
"""The waiters of each model, their progress notices, and their grants.

Waiters exist in memory only and end with their connections. `scheduling.scheduler` decides their
order.
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
    """The time in the queue before sparkd began to act for the model."""
    load_s: float = 0.0
    """The time spent waiting for the model's start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress information for one waiter."""

    model_id: str
    loading: bool
    """False while the model is queued behind others."""
    why: str
    elapsed_s: float
    """Time since the load began, or since the request arrived while the model is queued."""
    typical_s: float | None
    """The usual duration of loads of this model."""
    load: LoadProgress | None = None
    """The progress of the load, as far as the engine reports it."""


OnWait = Callable[[Progress], Awaitable[None]]


@dataclass(slots=True)
class Entry:
    """The waiters of one model with their arrival times, and the task that serves them."""

    config: Config
    spec: ModelSpec
    waiters: dict[asyncio.Future[Grant], float] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    task_since_s: float = 0.0
    why: str = "queued"
    told: str | None = None
    """The last reason to wait that was logged as an event."""
    in_the_way: tuple[str, ...] = ()
    """The models that must end before this one can start."""
    not_before_s: float = 0.0
    taken: int = 0
    """The number of tries at which another model held the locks that this start needs."""
    short: tuple[str, ...] | None = None
    """The blockers of a wait for memory alone; `short_since_s` is when this set last changed."""
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
        """Log one event for each reason to wait, not for each waiter."""
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
        """Fail all waiters with the error."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)


def give_back(waiter: asyncio.Future[Grant]) -> None:
    """Close the lease of a grant that arrived at the moment its waiter left."""
    if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
        waiter.result().lease.close()
