# SPDX-License-Identifier: Apache-2.0
"""A pip of our own, in a virtual environment in the cache.

Owns how packages are fetched: exactly the pinned files, as wheels, from where this machine's own
pip settings point.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from nspawn_host import cache
from nspawn_host.console import HostError, run_to_end, say

# The wheels of both engines are for the Python of their Debian 12 base.
PYTHON = "python3.11"


def python() -> Path:
    """Return an interpreter of the engines' version that has pip and may be installed into."""
    found = _interpreter()
    version = run_to_end([found, "--version"], what=f"{found} --version").strip()
    return (
        cache.entry(f"engines/pip-{cache.key_of(found, version)}", _make_environment) / "bin/python"
    )


def _interpreter() -> str:
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    found = shutil.which(PYTHON)
    if found is None:
        raise HostError(f"there is no {PYTHON}, for which the engines' wheels are", "use Debian 12")
    return found


def _make_environment(unfinished: Path) -> None:
    has_pip = subprocess.run(
        [_interpreter(), "-c", "import ensurepip"], stderr=subprocess.DEVNULL, check=False
    )
    if has_pip.returncode:
        _install_venv()
    run_to_end([_interpreter(), "-m", "venv", unfinished], what="python -m venv")


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
        count = requirements.read_text().count("==")
        say(f"download {count} wheels for {name}")
        run_to_end(
            [
                *(python(), "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
                *("--only-binary", ":all:", "--dest", unfinished, "--requirement", requirements),
            ],
            what=f"downloading the wheels for {name}",
            hint="wheels marked +cpu come from PyTorch's CPU index: name it in"
            " PIP_EXTRA_INDEX_URL unless pip knows it already",
        )

    return cache.entry(f"engines/wheels-{name}-{key}", download)
