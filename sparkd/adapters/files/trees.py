# SPDX-License-Identifier: Apache-2.0
"""Removal of directories that untrusted programs could write to."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path


async def remove_tree(path: Path) -> None:
    """Remove a directory that containers wrote to; what cannot be removed stays.

    They may have closed directories in it, or nested them deeper than a program may call itself.
    """
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        quiet = asyncio.subprocess.DEVNULL
        for command in (("chmod", "-R", "u+rwx"), ("rm", "-rf")):
            with contextlib.suppress(OSError):
                process = await asyncio.create_subprocess_exec(
                    *command, "--", path, stdin=quiet, stdout=quiet, stderr=quiet
                )
                await process.wait()
