# SPDX-License-Identifier: Apache-2.0
"""Requests that come at the same moment are begun some at a time.

The loop would take all of them one step further, then all of them the next: no client would have
the first token before every request is at the engine, and open streams would pause meanwhile. So
the loop reads from engines and clients between some of the starts.
"""

from __future__ import annotations

import asyncio
from collections import deque

AT_ONCE = 8
"""In one turn of the loop: two milliseconds or so, and enough to share what a turn itself costs. An
answer takes some turns to be passed on, so twice as many make the first tokens later."""


class Pacing:
    """The requests that begin in this turn of the loop, and those of the next ones, in order."""

    def __init__(self) -> None:
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Return at once, or as soon as it is this caller's turn."""
        if self._begun < AT_ONCE and not self._waiting:
            self._begin()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _begin(self) -> None:
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._next)
        self._begun += 1

    def _next(self) -> None:
        """The next turn of the loop."""
        self._begun = 0
        while self._waiting and self._begun < AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._begin()
