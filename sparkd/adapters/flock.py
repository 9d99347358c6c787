# SPDX-License-Identifier: Apache-2.0
"""flock(2) on one file: try it, wait for it without blocking the loop, release it.

Knows nothing of models and decides nothing. Locks belong to the open file description, so two
`FileLock`s exclude each other inside one process too, and the kernel frees them when the process
dies. Files are created when missing and never unlinked: unlinking a lock file lets two holders
each own "the" lock.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from sparkd.core.errors import HostError

_FIRST_DELAY_S = 0.01
_LAST_DELAY_S = 0.25
"""Waiting is a row of non-blocking tries: cancellable, and 4 cheap calls a second at worst."""


class Mode(Enum):
    SHARED = fcntl.LOCK_SH
    EXCLUSIVE = fcntl.LOCK_EX


class FileLock:
    """One open descriptor on a lock file, locked until `close`.

    Raises HostError when the file cannot be opened.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def try_take(cls, path: Path | str, mode: Mode) -> FileLock | None:
        """The lock, or None when a holder excludes `mode`."""
        fd = _open(path)
        try:
            fcntl.flock(fd, mode.value | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise HostError(f"cannot lock {path}: {error.strerror}") from error
        return cls(fd)

    @classmethod
    async def take(cls, path: Path | str, mode: Mode) -> FileLock:
        """Wait for the lock; cancel the task to stop waiting."""
        delay_s = _FIRST_DELAY_S
        while (lock := cls.try_take(path, mode)) is None:
            await asyncio.sleep(delay_s)
            delay_s = min(_LAST_DELAY_S, delay_s * 1.5)
        return lock

    def touch(self) -> None:
        """Set the file's mtime to now, as the monotonic clock has it: the wall clock may jump."""
        now_ns = time.monotonic_ns()
        os.utime(self._fd, ns=(now_ns, now_ns))

    def close(self) -> None:
        """Let the lock go; harmless when done twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _open(path: Path | str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            # The directory above was cleared; files in it are ours to create.
            Path(path).parent.mkdir(mode=0o700, exist_ok=True)
            return os.open(path, flags, 0o600)
    except OSError as error:
        raise HostError(
            f"cannot open lock file {path}: {error.strerror}",
            hint="sudo systemd-tmpfiles --create sparkd.conf",
        ) from error
