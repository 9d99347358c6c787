# SPDX-License-Identifier: Apache-2.0
"""The environment of the measurements: the machine, its load, and the software in the host."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.system.hosts import ROOT, Host

GIB = 1 << 30


def describe(host: Host) -> dict[str, Any]:
    """Everything a reader needs to judge a figure, in words and numbers."""
    cores = os.sched_getaffinity(0)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "taken_at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _commit(),
        "cpu": _cpu_name(),
        "cores": len(cores),
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "memory_gib": round(memory_bytes / GIB, 1),
        "kernel": platform.release(),
        "generator": f"Python {platform.python_version()}",
        "host": host.sh("sed -n 's/^PRETTY_NAME=\"\\(.*\\)\"/\\1/p' /etc/os-release"),
        "systemd": host.sh("systemctl --version | head -n1"),
        "podman": host.sh("podman --version"),
        "python": host.sh("python3 --version"),
        "sparkd": host.sh("dpkg-query -W -f '${Version}' sparkd"),
    }


def load_average() -> float:
    """Of the last minute, on the whole machine."""
    return os.getloadavg()[0]


def _commit() -> str:
    """The commit that was measured, marked when the tree had changes; `unknown` outside git."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _cpu_name() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()
