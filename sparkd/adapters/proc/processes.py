# SPDX-License-Identifier: Apache-2.0
"""Readings of the host's kernel: holders of a lock, the life of a process, a free port."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from dataclasses import dataclass
from pathlib import Path

from sparkd.adapters.proc.cgroups import PROC, scope_of
from sparkd.core.observed import LockHolder

_COMMAND_MAX_CHARS = 120


@dataclass(frozen=True, slots=True)
class _Held:
    pid: int
    exclusive: bool


class LockTable:
    """One reading of /proc/locks (proc(5)). Looking takes no lock, so it disturbs no holder."""

    def __init__(self, text: str) -> None:
        self._held: dict[str, list[_Held]] = {}
        for line in text.splitlines():
            # "7: FLOCK ADVISORY WRITE 4242 00:2f:1337 0 EOF"; a waiter has "->" as second field.
            fields = line.split()
            if len(fields) >= 6 and fields[1] == "FLOCK":
                held = _Held(int(fields[4]), fields[3] == "WRITE")
                self._held.setdefault(fields[5], []).append(held)

    @classmethod
    def read(cls) -> LockTable:
        return cls((PROC / "locks").read_text())

    def held(self, path: Path, *, exclusive_only: bool = False, shared_only: bool = False) -> bool:
        """Whether a process holds a flock on the file, optionally of one kind."""
        return any(
            not (held.exclusive and shared_only) and not (exclusive_only and not held.exclusive)
            for held in self._of(path)
        )

    def count(self, path: Path) -> int:
        """How many times the file is held, by whomever."""
        return len(self._of(path))

    def holders(self, path: Path) -> tuple[LockHolder, ...]:
        """The processes that hold a flock on the file, with what can be said of each.

        One that is gone by the time it is looked at holds nothing any more.
        """
        holders = []
        for held in self._of(path):
            # In this order: whose command can still be read had not ended when its model was.
            scope = scope_of(held.pid)
            model_id = scope[0] if scope else None
            command = _command(held.pid)
            if command is not None:
                holders.append(
                    LockHolder(
                        pid=held.pid, command=command, exclusive=held.exclusive, model_id=model_id
                    )
                )
        return tuple(holders)

    def _of(self, path: Path) -> list[_Held]:
        try:
            status = path.stat()
        except FileNotFoundError:
            return []
        major, minor = os.major(status.st_dev), os.minor(status.st_dev)
        return self._held.get(f"{major:02x}:{minor:02x}:{status.st_ino}", [])


def _command(pid: int) -> str | None:
    # Imported here: it takes 20 ms, and only an answer that names a process needs it.
    import psutil

    try:
        # A process that is ending has no command line any more.
        return " ".join(psutil.Process(pid).cmdline())[:_COMMAND_MAX_CHARS] or None
    except psutil.Error:
        return None


class ProcessWatch:
    """A pidfd: names one process for good, even after its number is used again."""

    __slots__ = ("_fd", "_poll", "pid")

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when there is no such process."""
        if pid <= 0:
            # What Podman says of a container whose process has just ended.
            raise ProcessLookupError(f"no process has the number {pid}")
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def alive(self) -> bool:
        return not self._poll.poll(0)

    async def ended(self) -> None:
        """Wait for the end of the process."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def set_done() -> None:
            if not done.done():
                done.set_result(None)

        # A duplicate, so that two waits on one watch do not replace each other's reader.
        fd = os.dup(self._fd)
        loop.add_reader(fd, set_done)
        try:
            await done
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
