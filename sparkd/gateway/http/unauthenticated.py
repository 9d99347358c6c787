# SPDX-License-Identifier: Apache-2.0
"""Connections on which no key has been shown since their last answer: how many there may be.

Every connection costs a descriptor and some memory, and to open one takes no key. When there are
too many, the one that has been without a key for longest is broken off: a client that has something
to ask, and a key, asks at once, so whoever floods the port drives out nobody but himself.
"""

from __future__ import annotations

import asyncio

STRANGERS_MOST = 4096
"""A sixteenth of the unit's descriptors, and some 30 MiB."""


class Unauthenticated:
    """Those connections, oldest first."""

    def __init__(self) -> None:
        self._since: dict[object, asyncio.Transport] = {}

    def add(self, connection: object, transport: asyncio.Transport) -> None:
        """A connection that is new, or has had its answer."""
        self._since.pop(connection, None)
        self._since[connection] = transport
        if len(self._since) > STRANGERS_MOST:
            self._since.pop(next(iter(self._since))).abort()

    def remove(self, connection: object) -> None:
        """A connection that has shown a key, or has ended."""
        self._since.pop(connection, None)
