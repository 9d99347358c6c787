# SPDX-License-Identifier: Apache-2.0
"""Reading the journal by journalctl(1), which exists wherever journald does; decides nothing.

One child process a reading. It ends with whoever reads, killed or not: journalctl ends when it
writes to a pipe that nobody holds any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

_LINE_LIMIT_BYTES = 1 << 20
"""An entry may quote the last words of a model; a longer line is left out."""


async def follow(*arguments: str) -> AsyncGenerator[bytes]:
    """The lines of `journalctl --follow ARGUMENTS`, as they come; ends when journalctl does.

    Where there is no journalctl there are no lines.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *("journalctl", "--quiet", "--no-pager", "--follow", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LINE_LIMIT_BYTES,
        )
    except FileNotFoundError:
        return
    assert process.stdout is not None
    try:
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue
            if not line:
                return
            yield line
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def events(message_ids: Sequence[str], uid: int) -> list[str]:
    """What makes journalctl print sparkd's own entries of these kinds, and nobody else's.

    Any program may write SPARKD_EVENT; _UID is journald's own word.
    """
    matches = [f"MESSAGE_ID={message_id}" for message_id in message_ids]
    return ["--output=json", "--all", f"_UID={uid}", *matches]


def container_output(container_id: str) -> list[str]:
    """What makes journalctl print all that a container's processes wrote."""
    return ["--output=cat", "--lines=all", f"CONTAINER_ID_FULL={container_id}", "_COMM=conmon"]
