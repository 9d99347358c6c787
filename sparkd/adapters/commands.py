# SPDX-License-Identifier: Apache-2.0
"""Short commands of the host: their output, within a time."""

from __future__ import annotations

import asyncio
import contextlib


async def output_of(*command: str, within_s: float) -> bytes | None:
    """The standard output of a command; None if it does not end in time.

    Its exit status does not matter. Raises FileNotFoundError. When cancelled, the command is
    killed.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(within_s):
            output, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    return output
