# SPDX-License-Identifier: Apache-2.0
"""The limit on connections without an authenticated request since their last response.

Each connection costs a descriptor and some memory, and opening one takes no key. Above the limit,
the connection that has been unauthenticated for longest is closed. A client with a key sends its
request at once, so a flood closes only its own connections.
"""

from __future__ import annotations

import asyncio

UNAUTHENTICATED_MOST = 4096
"""A sixteenth of the unit's descriptors, and some 30 MiB."""


class Unauthenticated:
    """The unauthenticated connections, oldest first."""

    def __init__(self) -> None:
        self._since: dict[object, asyncio.Transport] = {}

    def add(self, connection: object, transport: asyncio.Transport) -> None:
        """A connection that is new, or has had its answer."""
        self._since.pop(connection, None)
        self._since[connection] = transport
        if len(self._since) > UNAUTHENTICATED_MOST:
            self._since.pop(next(iter(self._since))).abort()

    def remove(self, connection: object) -> None:
        """A connection that has shown a key, or has ended."""
        self._since.pop(connection, None)
