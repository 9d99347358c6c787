# SPDX-License-Identifier: Apache-2.0
"""What the handlers of one daemon share: configuration, keys, what they use, the proxy."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sparkd.adapters.keyfiles import KeyFiles
from sparkd.adapters.sparkctl import Doctor
from sparkd.core.errors import Misconfigured
from sparkd.core.model import Config
from sparkd.core.quantities import count_of
from sparkd.core.quota import Meters, WrongKeys
from sparkd.core.traffic import Traffic
from sparkd.events import EventFeed
from sparkd.proxy import Proxy
from sparkd.runtime import Runtime
from sparkd.sampling import Sampler
from sparkd.web.body_budget import BodyBudget
from sparkd.web.preparer import Preparer
from sparkd.web.readings import Readings
from sparkd.web.strangers import Strangers
from sparkd.web.turns import Turns

READ = ("GET", "HEAD")
"""The methods of whatever can be read: HEAD is answered wherever GET is."""


class OpenRequests:
    """Counts requests in progress, so that the daemon knows when it is idle.

    One is in progress while this is entered.
    """

    def __init__(self) -> None:
        self.count = 0
        self._none = asyncio.Event()
        self._none.set()
        self._some = asyncio.Event()

    def __enter__(self) -> None:
        self.count += 1
        if self.count == 1:
            self._none.clear()
            self._some.set()

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if self.count == 0:
            self._none.set()
            self._some.clear()

    async def none(self) -> None:
        """Wait until no request is open."""
        await self._none.wait()

    async def some(self) -> None:
        """Wait until a request is open."""
        await self._some.wait()


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
    strangers: Strangers = field(default_factory=Strangers)
    doctor: Doctor = field(default_factory=Doctor)
    bodies: BodyBudget = field(default_factory=BodyBudget)
    readings: Readings = field(init=False)
    turns: Turns = field(default_factory=Turns)
    preparer: Preparer = field(default_factory=Preparer)
    traffic: Traffic = field(default_factory=Traffic)
    open_requests: OpenRequests = field(default_factory=OpenRequests)
    events: EventFeed = field(default_factory=EventFeed)
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the daemon stops: whoever only listens is told, and let go."""

    def __post_init__(self) -> None:
        self.readings = Readings(self)

    def require_usable(self) -> None:
        """Raise Misconfigured when sparkd.yaml is wrong."""
        if not self.config.settings_ok:
            first, count = self.config.problems[0], count_of(len(self.config.problems), "problem")
            raise Misconfigured(
                f"the configuration has {count}, first: {first}",
                hint="sparkctl check lists all; then sudo systemctl try-reload-or-restart sparkd",
            )
