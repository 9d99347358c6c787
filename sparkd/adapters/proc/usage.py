# SPDX-License-Identifier: Apache-2.0
"""The resources that the processes of a model use, by /proc: without privileges or controllers.

CUDA memory is not in it: on GB10 neither /proc nor the cgroup has it. Read by hand, because a
sample is taken for each request: two small files a process, where psutil would be imported (20 ms,
3 MiB) and would build an object for each. psutil reads command lines, in `processes`.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from sparkd.adapters.proc.cgroups import PROC, cgroup_pids, scope_of

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
            memory += _resident_bytes((PROC / str(one) / "status").read_text())
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
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _resident_bytes(status: str) -> int:
    wanted = ("RssAnon:", "RssShmem:")
    lines = [line.split() for line in status.splitlines() if line.startswith(wanted)]
    return sum(int(kib) * 1024 for _, kib, _ in lines)


def _scope_pids(pid: int) -> list[int]:
    """The processes of the model's scope that `pid` is in; only itself when it is in none."""
    scope = scope_of(pid)
    return (cgroup_pids(scope[1]) if scope and scope[1] else []) or [pid]
