# SPDX-License-Identifier: Apache-2.0
"""Reading the journal by journalctl(1), which exists wherever journald does; decides nothing.

One child process a reading. It ends with whoever reads, killed or not: journalctl ends when it
writes to a pipe that nobody holds any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from sparkd.core.names import Names

_MACHINE_ID = Path("/etc/machine-id")
_LINE_LIMIT_BYTES = 1 << 20
"""An entry may quote the last words of a model; a longer line is left out."""
_LINES_IN_A_ROW = 50
"""Lines that have arrived already are read without waiting: then the others get their turn."""


def follow(*arguments: str) -> AsyncGenerator[bytes]:
    """The lines of `journalctl --follow ARGUMENTS`, as they come; ends when journalctl does."""
    # Without --merge systemd 252 follows this boot only, by an id of the boot that is another one
    # within a sandbox in a container.
    return read("--merge", "--follow", *arguments)


async def read(*arguments: str) -> AsyncGenerator[bytes]:
    """The lines of `journalctl ARGUMENTS`. Where there is no journalctl there are no lines."""
    try:
        process = await asyncio.create_subprocess_exec(
            *("journalctl", "--quiet", "--no-pager", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LINE_LIMIT_BYTES,
        )
    except FileNotFoundError:
        return
    assert process.stdout is not None
    count = 0
    try:
        while True:
            count += 1
            if count % _LINES_IN_A_ROW == 0:
                await asyncio.sleep(0)
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

    Any program may write SPARKD_EVENT; _UID is journald's own word, as is the host.
    """
    matches = [f"MESSAGE_ID={message_id}" for message_id in message_ids]
    with contextlib.suppress(OSError):
        matches.append(f"_MACHINE_ID={_MACHINE_ID.read_text().strip()}")
    return ["--output=json", "--all", f"_UID={uid}", *matches]


def container_output(container_id: str) -> list[str]:
    """What makes journalctl print all that a container's processes wrote, and nobody else."""
    matches = (f"CONTAINER_ID_FULL={container_id}", "_COMM=conmon", f"_UID={os.getuid()}")
    return ["--output=cat", "--lines=all", *matches]


def model_output(model_id: str, uid: int | None = None) -> list[str]:
    """The matches for all that the processes of a model printed, in whichever run of it.

    `uid` is whose model it is; ours, if not given.
    """
    return [
        # Not the scope: for a second journald goes on to file a process that was moved into it
        # under the unit it came from, and the first lines are those that tell why a start failed.
        f"CONTAINER_NAME={Names(model_id).container}",
        # What nobody but that user's conmon can write: Podman's own events carry the name too.
        f"_UID={os.getuid() if uid is None else uid}",
        "_COMM=conmon",
    ]
