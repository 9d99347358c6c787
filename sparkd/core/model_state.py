# SPDX-License-Identifier: Apache-2.0
"""The state of a model: one vocabulary for every place that shows it, and how evidence becomes it.

`sparkctl`, the HTTP API, metrics, the status page and refusals show a `State`. Each reader gathers
the evidence that it can afford (`lifecycle.observer` has the two ways), and `describe` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of a model. docs/models.md has the same table for users."""

    STOPPED = "stopped"
    """Nothing of it runs."""
    QUEUED = "queued"
    """Requests wait for it, and its start has not begun."""
    STARTING = "starting"
    """It loads, or wakes up."""
    READY = "ready"
    """It is loaded, and no request uses it."""
    BUSY = "busy"
    """It is loaded, and a request uses it."""
    SLEEPING = "sleeping"
    """Its process runs without the GPU and most of its memory, and can wake up."""
    STOPPING = "stopping"
    """It ends, after the requests that it still serves."""
    FAILED = "failed"
    """It ended unasked; its container was kept and has the reason."""
    BACKING_OFF = "backing-off"
    """Its last start failed. The next one waits for a while, or for `sparkctl start`."""


RESIDENT = frozenset({State.STARTING, State.READY, State.BUSY, State.SLEEPING, State.STOPPING})
"""The states of models that have a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The facts about one model at one moment. A fact that was not looked for keeps its default."""

    running: bool = False
    """Its scope is active."""
    ready: bool = False
    """Its server answered a health check, or, where none was made, its start has finished."""
    in_transition: bool = False
    """A process holds its transition lock: it is being started, woken, drained or stopped."""
    in_use: bool = False
    """A request holds its activity lock."""
    asleep: bool = False
    """The sleep marker names the container that runs."""
    dead: bool = False
    """The container of its last run was kept, because the model ended unasked."""
    waiters: int = 0
    """The requests that wait for it in the gateway."""
    loading: bool = False
    """The gateway has begun to start it for them."""
    failures: int = 0
    """Its failed starts in a row."""


def describe(evidence: Evidence) -> State:
    """The state that the evidence shows; the first rule that applies."""
    if evidence.running:
        return _of_running(evidence)
    if evidence.waiters:
        return State.STARTING if evidence.loading else State.QUEUED
    if evidence.failures:
        return State.BACKING_OFF
    return State.FAILED if evidence.dead else State.STOPPED


def _of_running(evidence: Evidence) -> State:
    if evidence.asleep:
        return State.STARTING if evidence.in_transition else State.SLEEPING
    if not evidence.ready:
        return State.STARTING
    if evidence.in_transition:
        return State.STOPPING
    return State.BUSY if evidence.in_use else State.READY
