# SPDX-License-Identifier: Apache-2.0
"""Reading the journal by journalctl(1), which exists wherever journald does; decides nothing.

One child process per reading. It ends with its reader, killed or not: journalctl ends when it
writes to a pipe without a reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from pathlib import Path

from sparkd.adapters.commands import output_of
from sparkd.core.engine import printed_text
from sparkd.core.names import Names
from sparkd.core.numbers import bounded_int

_READING_TIMEOUT_S = 3.0
_UNIT_OOM = "fe6faa94e7774663a0da52717891d8ef"
"""SD_MESSAGE_UNIT_OUT_OF_MEMORY of sd-messages.h."""
_UNIT_STOPPING = "de5b426a63be47a7b6ac3eaac82e2f6f"
"""SD_MESSAGE_UNIT_STOPPING of sd-messages.h."""
DROPS = ("MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e", "_UID=0")
"""SD_MESSAGE_JOURNAL_DROPPED of sd-messages.h, written by journald itself."""
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
    """The arguments for sparkd's own entries of these kinds, and no others.

    Any program may write SPARKD_EVENT; _UID is journald's own word, as is the host.
    """
    matches = [f"MESSAGE_ID={message_id}" for message_id in message_ids]
    with contextlib.suppress(OSError):
        matches.append(f"_MACHINE_ID={_MACHINE_ID.read_text().strip()}")
    return ["--output=json", "--all", f"_UID={uid}", *matches]


def container_output(container_id: str) -> list[str]:
    """The arguments for the output of a container's processes, and no other."""
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
        # Only that user's conmon can write these; Podman's own events carry the name too.
        f"_UID={os.getuid() if uid is None else uid}",
        "_COMM=conmon",
    ]


def model_log(model_id: str, uid: int | None = None) -> list[str]:
    """The same as `logged` reads it, with journald's word on the lines that it dropped."""
    drops = (*DROPS, of_user(uid))
    return ["--output=json", "--all", *model_output(model_id, uid), "+", *drops]


def logged(entry: bytes) -> str | None:
    """One line of a log as people read it; None for an entry without text."""
    try:
        found = json.loads(entry)
        at = datetime.fromtimestamp(int(found["__REALTIME_TIMESTAMP"]) / 1e6).astimezone()
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
        return None
    text = printed_text.logged(found)
    return f"{at:%Y-%m-%dT%H:%M:%S%z} {text}\n" if text else None


async def last_lines(container_id: str, count: int = 20) -> list[str]:
    """The last lines that a container's processes wrote, as they wrote them, oldest first.

    Empty when they cannot be read. Show them only through `core.engine.printed_text`.
    """
    # Podman logs its own events under the same id; only conmon carries the output. Any user may
    # write that id, and name a program conmon; journald itself adds the user.
    matches = (f"CONTAINER_ID_FULL={container_id}", "_COMM=conmon", f"_UID={os.getuid()}")
    return await _lines(f"--lines={count}", *matches)


async def killed_for_memory(unit: str, since: float) -> bool:
    """Whether the kernel has killed a process of a user unit for memory since that wall time.

    systemd says so when it looks at the unit's control group, which is gone soon after.
    """
    matches = (f"USER_UNIT={unit}", f"MESSAGE_ID={_UNIT_OOM}", f"_UID={os.getuid()}")
    return bool(await _lines(f"--since=@{since:.0f}", *matches))


async def stopped_by_hand(unit: str, since: float) -> bool:
    """Whether systemd was asked to stop a user unit since that wall time."""
    matches = (f"USER_UNIT={unit}", f"MESSAGE_ID={_UNIT_STOPPING}", f"_UID={os.getuid()}")
    return bool(await _lines(f"--since=@{since:.0f}", *matches))


async def dropped_lines(since: float) -> int:
    """How many lines of this user's models journald has dropped since that wall time.

    journald says so with the first line that it accepts again, so the newest drop may be missing.
    """
    counts = await _lines(f"--since=@{since:.0f}", "--output-fields=N_DROPPED", *DROPS, of_user())
    return sum(bounded_int(count, most=1 << 40) or 0 for count in counts)


def of_user(uid: int | None = None) -> str:
    """The match for what journald says of the user manager that models run in; ours by default."""
    return f"OBJECT_SYSTEMD_UNIT=user@{os.getuid() if uid is None else uid}.service"


async def said_by_unit(unit: str, since: float, count: int = 1000) -> list[str]:
    """What the processes of a user unit have printed since that wall time, oldest first, and after
    that what the manager warns of it."""
    of_unit = (f"--lines={count}", f"--since=@{since:.0f}", f"_UID={os.getuid()}")
    printed = await _lines(*of_unit, f"_SYSTEMD_USER_UNIT={unit}")
    return printed + await _lines(*of_unit, "--priority=warning", f"USER_UNIT={unit}")


async def _lines(*arguments: str) -> list[str]:
    command = ("journalctl", "--quiet", "--output=cat", *arguments)
    output = await output_of(*command, within_s=_READING_TIMEOUT_S) or b""
    lines = (line.rstrip() for line in output.decode(errors="replace").split("\n"))
    return [line for line in lines if line]
