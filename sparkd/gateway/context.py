# SPDX-License-Identifier: Apache-2.0
"""The state that the handlers of one daemon share: configuration, keys, budgets, the proxy."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sparkd.adapters.doctor_process import Doctor
from sparkd.adapters.files.key_files import KeyFiles
from sparkd.core.access.quota import Meters, WrongKeys
from sparkd.core.errors import Misconfigured
from sparkd.core.model import Config
from sparkd.core.quantities import count_of
from sparkd.core.telemetry.traffic import Traffic
from sparkd.gateway.body_budget import BodyBudget
from sparkd.gateway.body_worker import BodyWorker
from sparkd.gateway.http.open_requests import OpenRequests
from sparkd.gateway.http.pacing import Pacing
from sparkd.gateway.http.unauthenticated import Unauthenticated
from sparkd.gateway.proxy import Proxy
from sparkd.gateway.shared_readings import Readings
from sparkd.lifecycle.sampling import Sampler
from sparkd.observe.event_feed import EventFeed
from sparkd.runtime import Runtime


@dataclass(slots=True)
class Context:
    """Replaced in parts by a reload; handlers read it once at the start of a request."""

    runtime: Runtime
    proxy: Proxy
    sampler: Sampler
    config: Config
    keys: KeyFiles
    meters: Meters = field(default_factory=Meters)
    wrong_keys: WrongKeys = field(default_factory=WrongKeys)
    unauthenticated: Unauthenticated = field(default_factory=Unauthenticated)
    doctor: Doctor = field(default_factory=Doctor)
    bodies: BodyBudget = field(default_factory=BodyBudget)
    readings: Readings = field(init=False)
    pacing: Pacing = field(default_factory=Pacing)
    body_worker: BodyWorker = field(default_factory=BodyWorker)
    traffic: Traffic = field(default_factory=Traffic)
    open_requests: OpenRequests = field(default_factory=OpenRequests)
    events: EventFeed = field(default_factory=EventFeed)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the daemon stops: streams of events and logs end then."""

    def __post_init__(self) -> None:
        self.readings = Readings(
            self.runtime, lambda: self.config, traffic=self.traffic, meters=self.meters
        )

    def require_usable(self) -> None:
        """Raise Misconfigured when sparkd.yaml is wrong."""
        if not self.config.settings_ok:
            first, count = self.config.problems[0], count_of(len(self.config.problems), "problem")
            raise Misconfigured(
                f"the configuration has {count}, first: {first}",
                hint="sparkctl check lists all; then sudo systemctl try-reload-or-restart sparkd",
            )
