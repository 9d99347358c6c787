# SPDX-License-Identifier: Apache-2.0
"""Control groups: the one of a process, the model that it belongs to, and its processes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sparkd.core.names import model_of_scope

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def cgroup_pids(control_group: str) -> list[int]:
    """The processes of a cgroup by its path, and of the cgroups below it; empty when it is gone."""
    root = CGROUPS / control_group.lstrip("/")
    pids: list[int] = []
    for procs in root.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            pids += [int(line) for line in procs.read_text().split()]
    return pids


def scope_of(pid: int) -> tuple[str, str] | None:
    """The model in whose scope a process is, and the path of the scope; None outside of models.

    The path is empty on a host without the unified hierarchy for that scope.
    """
    try:
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in sorted(lines, key=lambda one: not one.startswith("0::")):
        path = Path(line.split(":", 2)[2])
        for part in (path, *path.parents):
            if model_id := model_of_scope(part.name):
                return model_id, str(part) if line.startswith("0::") else ""
    return None
