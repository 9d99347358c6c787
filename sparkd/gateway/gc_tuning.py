# SPDX-License-Identifier: Apache-2.0
"""What starts and stops leave behind in memory, found soon after.

The objects by which Podman and D-Bus are spoken to refer to each other, and so do errors and the
frames that they came through: only Python's collector of cycles frees them. By itself it looks at
old objects when a quarter of all there are is new, which with the 55 000 of this daemon means after
some hundred starts, and by then the memory around them is in pieces and stays. So it is called
when somebody has left the queue, and leaves out what has been there since the start.
"""

from __future__ import annotations

import asyncio
import gc

_PAUSE_S = 5.0
"""A crowd leaves the queue together, and what it leaves is dropped some moments later. A collection
takes milliseconds, in which nothing else is done."""


class GcTuning:
    def __init__(self, pause_s: float = _PAUSE_S) -> None:
        self._pause_s = pause_s
        self._timer: asyncio.TimerHandle | None = None

    def leave_out_all_there_is(self) -> None:
        """Call once what stays until the end has been loaded."""
        gc.freeze()

    def collect_soon(self) -> None:
        """Once, however often this is called until then."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._pause_s, self._collect)

    def _collect(self) -> None:
        self._timer = None
        gc.collect()
