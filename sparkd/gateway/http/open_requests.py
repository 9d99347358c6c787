# SPDX-License-Identifier: Apache-2.0
"""The count of requests in progress, so that the daemon knows when it is idle."""

from __future__ import annotations

import asyncio


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
