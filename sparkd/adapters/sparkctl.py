# SPDX-License-Identifier: Apache-2.0
"""Runs sparkctl for the gateway: what looks at the host for seconds and needs modules that the
gateway does not keep is done by a process of its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from sparkd.core.errors import HostError

_PROGRAM = "sparkctl"
_TIMEOUT_S = 60.0
"""Podman may have to start first, and a host in trouble is slow."""


async def diagnosis() -> dict[str, Any]:
    """What `sparkctl doctor --json` says. Raises HostError."""
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
