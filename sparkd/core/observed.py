# SPDX-License-Identifier: Apache-2.0
"""The observed state of a host's models: one reading of units, containers and locks.

Wall-clock moments end in `_at`, monotonic ones in `_s`, as in `core.model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparkd.core.model import HEALTH_PATH, Lifecycle
from sparkd.core.model_state import Evidence, State, describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a running model's server listens: a unix socket or a TCP port of 127.0.0.1."""

    socket: Path | None = None
    port: int | None = None
    health: str = HEALTH_PATH

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else f"tcp:127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One running (or starting) container of a model, as its scope and labels tell."""

    model_id: str
    container_id: str
    pid: int
    """Of the payload, in the host's PID namespace."""
    spec_hash: str
    endpoint: Endpoint
    started_at: float
    started_s: float
    woken_s: float | None = None
    """When it was last woken from sleep, where that was just done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadContainer:
    """What was left of the last run of a model that ended by itself."""

    container_id: str
    exit_code: int
    finished_at: float
    oom_killed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReading:
    """All that was read about one model at one moment."""

    model_id: str
    running: bool = False
    """Its scope is active."""
    ready: bool = False
    """Its server answered a health check, or, where none was made, its start has finished."""
    instance: Instance | None = None
    dead: DeadContainer | None = None
    in_use: bool = False
    """A process holds a use lease (or is taking one)."""
    in_transition: bool = False
    """A process is starting, stopping or draining it."""
    asleep: bool = False
    """It was put to sleep, or is on its way there or back: it cannot be used as it is."""
    last_used_at: float | None = None
    last_used_s: float | None = None
    idle_check_at: float | None = None
    """When its next idle or load timer fires."""
    failures: int = 0
    """Its failed starts in a row."""

    @property
    def evidence(self) -> Evidence:
        """What this reading says of its state; only the gateway knows the requests that wait."""
        return Evidence(
            running=self.running,
            ready=self.ready,
            in_transition=self.in_transition,
            in_use=self.in_use,
            asleep=self.asleep,
            dead=self.dead is not None,
            failures=self.failures,
        )

    @property
    def state(self) -> State:
        return describe(self.evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """A process that holds the GPU lock, from /proc/locks."""

    pid: int
    command: str
    exclusive: bool
    model_id: str | None = None
    """Set when it is one of our own scopes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One reading of everything that decides about a start."""

    models: dict[str, ModelReading]
    lifecycles: dict[str, Lifecycle]
    holders: tuple[LockHolder, ...] = ()

    def running(self) -> tuple[ModelReading, ...]:
        """The models whose processes exist, in whatever state."""
        return tuple(reading for reading in self.models.values() if reading.running)
