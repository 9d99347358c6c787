# SPDX-License-Identifier: Apache-2.0
"""Runs of the cycle collector shortly after starts and stops of models.

The objects of Podman's and D-Bus' clients refer to each other, and so do errors and the frames that
they passed: only Python's cycle collector frees them. By default it looks at old objects when a
quarter of all objects is new. With the 55,000 of this daemon that takes some hundred starts, and
the memory around them is fragmented by then and stays. So the collector runs after a request has
left the queue, and skips the objects that have existed since the start.
"""

from __future__ import annotations

import asyncio
import gc

_PAUSE_S = 5.0
"""Many requests leave the queue together, and their objects are dropped some moments later. A
collection takes milliseconds, and blocks the loop."""


class GcTuning:
    def __init__(self, pause_s: float = _PAUSE_S) -> None:
        self._pause_s = pause_s
        self._timer: asyncio.TimerHandle | None = None

    def leave_out_all_there_is(self) -> None:
        """Skip all present objects; call once, when the modules are loaded."""
        gc.freeze()

    def collect_soon(self) -> None:
        """Schedule one collection, however often this is called until it runs."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._pause_s, self._collect)

    def _collect(self) -> None:
        self._timer = None
        gc.collect()
