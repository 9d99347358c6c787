# SPDX-License-Identifier: Apache-2.0
"""Runs of `sparkctl doctor` for the gateway.

The survey takes seconds, and needs modules that the gateway does not load, so a separate process
makes it.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

from sparkd.core.errors import HostError

_PROGRAM = "sparkctl"
_TIMEOUT_S = 60.0
"""Podman may have to start first, and a host in trouble is slow."""


class Doctor:
    """`sparkctl doctor` for callers, one run at a time: calls during a run share the next one.

    So no caller gets a result from before its call, and a crowd waits for two runs at most.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._begun_s = -math.inf
        self._found: dict[str, Any] | HostError = {}

    async def diagnosis(self) -> dict[str, Any]:
        """What `sparkctl doctor --json` says. Raises HostError."""
        asked_s = time.monotonic()
        async with self._turn:
            if self._begun_s < asked_s:
                await self._look(time.monotonic())
            found = self._found
        if isinstance(found, HostError):
            raise found
        return found

    async def _look(self, begun_s: float) -> None:
        """Run again; when that is cancelled, the next caller begins again."""
        try:
            self._found = await _diagnosis()
        except HostError as error:
            self._found = error
        self._begun_s = begun_s


async def _diagnosis() -> dict[str, Any]:
    try:
        process = await asyncio.create_subprocess_exec(
            *(_PROGRAM, "doctor", "--json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise HostError(f"there is no {_PROGRAM} on this host") from None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            said, _ = await process.communicate()
        found = json.loads(said)
    except TimeoutError:
        raise HostError(f"{_PROGRAM} doctor did not end within {_TIMEOUT_S:g} s") from None
    except ValueError:
        raise HostError(
            f"{_PROGRAM} doctor ended with {process.returncode} and said nothing",
            hint="sudo sparkctl doctor",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not isinstance(found, dict):
        raise HostError(f"{_PROGRAM} doctor said {type(found).__name__}, not an object")
    return found
