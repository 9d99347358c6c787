# SPDX-License-Identifier: Apache-2.0
"""Readings of the host that all clients share, so that many readers cost no more than a few.

A snapshot asks systemd, Podman and every engine, which takes CPU time that starts of models
need. One reading of each kind runs at a time, and clients that ask during it share the next one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from sparkd._version import __version__
from sparkd.core.access.quota import Meters
from sparkd.core.errors import HostError
from sparkd.core.model import Config
from sparkd.core.model_state import State
from sparkd.core.telemetry.traffic import Traffic
from sparkd.observe.metrics import page
from sparkd.observe.status import states, status
from sparkd.runtime import Runtime

T = TypeVar("T")

PAUSE_S = 0.25
"""The shortest time between the beginnings of two readings of one kind."""
STATES_AGE_S = 1.0
"""How old the states in the list of models may be: menus ask for it, and often."""


class Shared(Generic[T]):
    """One reading for all callers of about the same time."""

    def __init__(self, look: Callable[[], Awaitable[T]], pause_s: float = PAUSE_S) -> None:
        self._look = look
        self._pause_s = pause_s
        self._turn = asyncio.Lock()
        self._begun_s = -math.inf
        self._found: T | HostError | None = None

    async def read(self, max_age_s: float = 0.0) -> T:
        """A reading that began at most `max_age_s` before this call, or later.

        Raises HostError, and whatever else the reading raises.
        """
        asked_s = time.monotonic()
        async with self._turn:
            if self._begun_s < asked_s - max_age_s:
                await asyncio.sleep(max(0.0, self._begun_s + self._pause_s - asked_s))
                await self._read()
            found = self._found
        if isinstance(found, HostError):
            raise found
        assert found is not None
        return found

    def forget(self) -> None:
        """Have the next call read, because something has changed."""
        self._begun_s = -math.inf

    async def _read(self) -> None:
        """Read; if that is cancelled, the next caller begins again."""
        begun_s = time.monotonic()
        try:
            self._found = await self._look()
        except HostError as error:
            self._found = error
        self._begun_s = begun_s


class Readings:
    """The shared readings of one gateway; none of them depends on the client."""

    def __init__(
        self, runtime: Runtime, config: Callable[[], Config], *, traffic: Traffic, meters: Meters
    ) -> None:
        self.status = Shared(lambda: status(runtime, config()))
        self._states = Shared(lambda: states(runtime, config()))
        self.metrics = Shared(lambda: page(runtime, config(), traffic, meters, version=__version__))

    async def states(self) -> dict[str, State]:
        """The state of each model, a second old at most."""
        return await self._states.read(STATES_AGE_S)

    def changed(self) -> None:
        """Note that a model became ready or was requested, for the list of models."""
        self._states.forget()
