# SPDX-License-Identifier: Apache-2.0
"""What the processes of a model use, by /proc: it needs no privileges and no cgroup controllers.

CUDA memory is not in it: on GB10 neither /proc nor the cgroup has it.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from sparkd.core.names import model_of_scope

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_TICKS = os.sysconf("SC_CLK_TCK")
_ENDED = ("Z", "X", "x")
"""The states of proc_pid_stat(5) of a process that has ended."""
_START_FIELD = 19
"""Of what follows the command in /proc/PID/stat, as `starttime` is its field 22."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    memory_bytes: int = 0
    """Anonymous and shared memory that is resident; pages of files can be had back."""
    cpu_s: float = 0.0
    processes: int = 0


def usage(pid: int) -> Usage:
    """Of the process and all in its scope; nothing when it has ended."""
    memory, cpu_s, count = 0, 0.0, 0
    for one in _scope_pids(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):
            stat = _stat(one)
            memory += _resident_bytes((_PROC / str(one) / "status").read_text())
            # With the children that it has waited for.
            cpu_s += sum(int(ticks) for ticks in stat[11:15]) / _TICKS
            count += 1
    return Usage(memory_bytes=memory, cpu_s=cpu_s, processes=count)


def start_of(pid: int) -> int | None:
    """When the process started, in clock ticks since the boot; None when none runs.

    A process that has ended and was not waited for yet does not run: conmon waits for its payload
    only once it has passed on all output.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = _stat(pid)
        return None if stat[0] in _ENDED else int(stat[_START_FIELD])
    return None


def age_s(pid: int) -> float | None:
    """How long the process has lived, whatever the wall clock did; None when there is none."""
    ticks = start_of(pid)
    return None if ticks is None else time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command, which may hold anything."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _resident_bytes(status: str) -> int:
    wanted = ("RssAnon:", "RssShmem:")
    lines = [line.split() for line in status.splitlines() if line.startswith(wanted)]
    return sum(int(kib) * 1024 for _, kib, _ in lines)


def _scope_pids(pid: int) -> list[int]:
    """The processes of the model's scope that `pid` is in; only itself when it is in none."""
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "cgroup").read_text().splitlines():
            path = Path(line.split(":", 2)[2])
            scope = next((p for p in (path, *path.parents) if model_of_scope(p.name)), None)
            if line.startswith("0::") and scope is not None:
                return _pids_below(_CGROUPS / str(scope).lstrip("/")) or [pid]
    return [pid]


def _pids_below(cgroup: Path) -> list[int]:
    pids: list[int] = []
    for procs in cgroup.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            pids += [int(line) for line in procs.read_text().split()]
    return pids
