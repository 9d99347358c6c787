# SPDX-License-Identifier: Apache-2.0
"""What an import of the daemon brings along, in a Python of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
LOOK = """
import sys, sparkd.daemon, httpx
assert callable(httpx.main) and httpx.AsyncClient
print(*sorted(sys.modules))
"""


def test_daemon_loads_no_command_line_of_another_library(tmp_path: Path) -> None:
    # As on Debian, where what httpx's command line needs is always there.
    for name in ("click", "rich", "pygments"):
        (tmp_path / f"{name}.py").write_text("")
    path = f"{tmp_path}:{ROOT}"
    environ = {"PYTHONPATH": path, "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environ, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "sparkd.daemon" in loaded
    assert loaded & {"click", "rich", "pygments"} == set()
