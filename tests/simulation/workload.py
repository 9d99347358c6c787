# SPDX-License-Identifier: Apache-2.0
"""The simulated workload: models, the clients' requests, and the scheduler's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparkd.core.model import Lifecycle

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    model_id: str
    lifecycle: Lifecycle = Lifecycle.NORMAL
    load_s: float = 60.0
    stop_s: float = 5.0
    peak_bytes: int = 0
    known: bool = True
    """Whether its peak is known before its first load."""
    failing: frozenset[int] = frozenset()
    """Which of its loads fail, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    model_id: str
    service_s: float = 5.0
    """How long the model takes to answer it."""
    patience_s: float = float("inf")
    """After this long in the queue its client leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Requests in order, and clients who each take the next one when their last one has ended.

    One request and one client is an arrival; many requests and one client a conversation; many
    and several a list of jobs that is worked off.
    """

    requests: tuple[Request, ...]
    at_s: float = 0.0
    clients: int = 1
    think_s: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The memory of the simulated host."""

    total_bytes: int = 128 * GIB
    reserve_bytes: int = 4 * GIB
    recovery_s: float = 2.0
    """How late the memory of a model comes back after it was stopped."""
    others: tuple[tuple[float, float, int], ...] = ()
    """From when to when programs outside sparkd take how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of sparkd.yaml that matter here, with their defaults."""

    max_wait_s: float = 60.0
    min_residency_s: float = 30.0
    idle_timeout_s: float = 1200.0
    queue_limit: int = 512
    queue_timeout_s: float = 1800.0
    finish_abandoned_loads: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    name: str
    models: tuple[Model, ...]
    lines: tuple[Line, ...]
    rules: Rules = field(default_factory=Rules)
    host: Host | None = None
    """None: memory is not checked."""
    reloads: tuple[tuple[float, str], ...] = ()
    """When the configuration of which model changes."""
    kills: tuple[float, ...] = ()
    """When the daemon is killed; the next one is there at once."""

    @property
    def requests(self) -> int:
        return sum(len(line.requests) for line in self.lines)
