# SPDX-License-Identifier: Apache-2.0
"""Checks that Podman's service answers, before each call.

Otherwise a call would hang while the service cannot start.

The socket is systemd's, which takes connections for a service that ends as soon as it is started,
and starts it again for as long as a client waits there, or until its start limit is hit and it
gives the socket up. That it began several times during one question tells it from a service that is
slow or hangs, which is waited for. A socket that was given up is started again for the next
question. A question changes nothing, so an answer after the caller has gone does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from pathlib import Path

from sparkd.adapters.journal.reader import said_by_unit
from sparkd.adapters.podman.client import API_TIMEOUT_S
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.errors import HostError

_SERVICE, _SOCKET = "podman.service", "podman.socket"
_LAST_WORDS = ("Error", "fatal error", "panic", "runtime/")
_RECENT_S = 10.0
"""A socket that was given up a moment ago may be given up again before the service starts."""
_JOURNAL_PAUSES_S = (0.0, 0.5, 1.0)
"""journald takes its time."""
_FRESH_S = 3.0
"""Podman's service ends by itself after five seconds without a call."""
_FIRST_LOOK_S = 1.0
_LOOK_PAUSE_S = 0.5
_BEGINNINGS = 3
"""It may be ending by itself when the question comes, and be started again for it."""


class PodmanService:
    def __init__(self, api_socket: Path, systemd: UserManager) -> None:
        self._api_socket = api_socket
        self._systemd = systemd
        self._answered_s = -math.inf

    async def answering(self) -> None:
        """Return once it answers, or at once if it cannot be reached: a call tells why.

        Raises HostError when it cannot start, and when it does not answer in time.
        """
        if time.monotonic() < self._answered_s + _FRESH_S:
            return
        since_at = time.time()
        try:
            async with asyncio.timeout(API_TIMEOUT_S):
                answered = await self._answers(since_at)
                if not answered and await self._socket_failed():
                    await self._systemd.start(_SOCKET)
                    answered = await self._answers(since_at)
                    if not answered and await self._socket_failed():
                        raise await _cannot_start(since_at)
        except TimeoutError:
            raise HostError(
                f"Podman's service did not answer within {API_TIMEOUT_S:g} s",
                hint=f"sudo systemctl --user -M sparkd@ status {_SERVICE}",
                code="podman_down",
            ) from None
        if answered:
            self._answered_s = time.monotonic()

    async def _answers(self, since_at: float) -> bool:
        """Ask, and wait for an answer for as long as the same start of the service may give it."""
        pinging = asyncio.ensure_future(_ping(self._api_socket))
        beginnings: set[str] = set()
        pause_s = _FIRST_LOOK_S
        try:
            while not (await asyncio.wait([pinging], timeout=pause_s))[0]:
                pause_s = _LOOK_PAUSE_S
                with contextlib.suppress(HostError):
                    beginnings |= {await self._systemd.invocation(_SERVICE)} - {""}
                if len(beginnings) >= _BEGINNINGS:
                    raise await _cannot_start(since_at)
            return pinging.result()
        finally:
            pinging.cancel()

    async def _socket_failed(self) -> bool:
        """Whether systemd has given it up, having had to start the service too often."""
        return any(unit.failed for unit in await self._systemd.units([_SOCKET]))


async def _ping(api_socket: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(api_socket)
    except OSError:
        return False
    try:
        writer.write(b"GET /_ping HTTP/1.0\r\nHost: d\r\n\r\n")
        return await reader.read(1) != b""
    except OSError:
        return False
    finally:
        writer.close()


async def _cannot_start(since_at: float) -> HostError:
    why = "the journal does not say why"
    for pause_s in _JOURNAL_PAUSES_S:
        await asyncio.sleep(pause_s)
        lines = await said_by_unit(_SERVICE, since_at - _RECENT_S)
        # A program in Go that falls prints hundreds of lines after the one that says why.
        last_words = [line for line in lines if line.startswith(_LAST_WORDS)]
        why = [why, *lines[-1:], *last_words][-1]
        if last_words:
            break
    return HostError(
        f"Podman's service ends whenever it is started: {why:.300}",
        hint=f"sudo systemctl --user -M sparkd@ status {_SERVICE}",
        code="podman_down",
    )
