# SPDX-License-Identifier: Apache-2.0
"""A pip of our own, in a virtual environment in the cache.

Owns how packages are fetched: exactly the pinned files, as wheels for the images' Python whatever
runs here, from where this machine's own pip settings point. What PyPI has not, PyTorch's builds for
the CPU, comes from PyTorch's index unless those settings know another.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from nspawn_host import cache
from nspawn_host.console import HostError, run_to_end, say

PYTORCH = "https://download.pytorch.org/whl/cpu"
# Of Debian 12, which the images of both engines are made of.
PYTHON_VERSION = "3.11"
GLIBC_MINOR = 36


def python() -> Path:
    """Return an interpreter that has pip and may be installed into."""
    key = cache.key_of(sys.executable, sys.version)
    return cache.entry(f"engines/pip-{key}", _make_environment) / "bin/python"


def _make_environment(unfinished: Path) -> None:
    has_pip = subprocess.run(
        [sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL, check=False
    )
    if has_pip.returncode:
        _install_venv()
    run_to_end([sys.executable, "-m", "venv", unfinished], what="python -m venv")


def _install_venv() -> None:
    """Debian splits what venv needs into a package of its own."""
    say("install python3-venv on this machine")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with cache.lock("apt"):
        run_to_end(["apt-get", "update"], what="apt-get update", env=env)
        run_to_end(
            ["apt-get", "install", "-y", "--no-install-recommends", "python3-venv"],
            what="apt-get install python3-venv",
            env=env,
        )


def wheelhouse(name: str, requirements: Path) -> Path:
    """Return a directory with the wheel of each pinned package and no other."""
    key = cache.file_key(requirements)

    def download(unfinished: Path) -> None:
        pins = _entries(requirements)
        say(f"download {len(pins)} wheels for {name}")
        _fetch([pin for pin in pins if "+" not in pin], unfinished)
        # PyPI takes no builds of such names.
        if local := [pin for pin in pins if "+" in pin]:
            try:
                _fetch(local, unfinished)
            except HostError:
                say(f"try {PYTORCH}")
                _fetch(local, unfinished, "--index-url", PYTORCH)

    return cache.entry(f"engines/wheels-{name}-{key}", download)


def _entries(requirements: Path) -> list[str]:
    lines = requirements.read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _fetch(pins: list[str], place: Path, *options: str) -> None:
    machine = platform.machine()
    kinds = [f"manylinux_2_{minor}" for minor in range(GLIBC_MINOR, -1, -1)]
    # pip compares names of platforms, so each is named; it prefers the first.
    platforms = [f"--platform={kind}_{machine}" for kind in (*kinds, "manylinux2014", "linux")]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(pins))
        listed.flush()
        run_to_end(
            [
                *(python(), "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
                *("--only-binary", ":all:", "--python-version", PYTHON_VERSION, *platforms),
                *("--dest", place, "--requirement", listed.name, *options),
            ],
            what=f"downloading {len(pins)} wheels",
        )
