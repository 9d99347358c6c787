# SPDX-License-Identifier: Apache-2.0
"""A pip of our own, in a virtual environment in the cache.

Owns how packages are fetched: exactly the pinned ones, as wheels, from where this machine's own
pip settings point.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from nspawn_host import cache
from nspawn_host.console import HostError, run_to_end, say

# The wheels of both engines are for the Python of their Debian 12 base.
PYTHON = "python3.11"
HASHES = Path(__file__).resolve().parents[1] / "wheels"


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


def _verify(wheels: Path, hashes: Path) -> None:
    """Refuse anything but exactly the files that the list names."""
    known = {line.split()[1]: line.split()[0] for line in hashes.read_text().splitlines()}
    for wheel in sorted(wheels.iterdir()):
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != known.get(wheel.name):
            raise HostError(
                f"{wheel.name} is not the file that was pinned: its SHA-256 is {found}",
                f"if its pin was changed on purpose: make pins (writes {hashes.name})",
            )


def wheelhouse(name: str, requirements: Path) -> Path:
    """Return a directory with the wheel of each pinned package and no other."""
    key = cache.file_key(requirements)

    def download(unfinished: Path) -> None:
        lines = requirements.read_text().splitlines()
        count = sum(1 for line in lines if line and not line.startswith("#"))
        say(f"download {count} wheels for {name}")
        run_to_end(
            [
                *(python(), "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--only-binary", ":all:", "--dest", unfinished, "--requirement", requirements),
            ],
            what=f"downloading the wheels for {name}",
            hint="wheels marked +cpu come from PyTorch's CPU index: name it in"
            " PIP_EXTRA_INDEX_URL unless pip knows it already",
        )
        _verify(unfinished, HASHES / f"{name}.sha256")

    return cache.entry(f"engines/wheels-{name}-{key}", download)
