# SPDX-License-Identifier: Apache-2.0
"""The modules that an import of the daemon loads, in a separate Python process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
LOOK = """
import sys, sparkd.gateway.daemon, httpx, podman, requests
assert callable(httpx.main) and httpx.AsyncClient
assert podman.PodmanClient and requests.compat.chardet
print(*sorted(name for name, module in sys.modules.items() if module))
"""


NEEDLESS = ("chardet", "click", "html5tagger", "pygments", "rich", "tracerite")


def test_daemon_loads_nothing_that_its_libraries_can_do_without(tmp_path: Path) -> None:
    # As on Debian, where all of it is there.
    for name in NEEDLESS:
        (tmp_path / f"{name}.py").write_text("")
    path = f"{tmp_path}:{ROOT}"
    environ = {"PYTHONPATH": path, "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environ, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "sparkd.gateway.daemon" in loaded
    assert loaded & set(NEEDLESS) == set()
