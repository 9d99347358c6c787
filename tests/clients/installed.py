# SPDX-License-Identifier: Apache-2.0
"""The clients on this machine: installed once into the cache, from the pinned lists beside this.

Each list is an entry of its own, so that none of them weighs on the tests' own environment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

sys.path.insert(0, str(HERE.parent / "host"))
from nspawn_host import cache  # noqa: E402


def python(name: str) -> Path:
    """The interpreter that has what `python/NAME.txt` lists."""
    listed = HERE / "python" / f"{name}.txt"

    def make(place: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip = [place / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        # The list is whole, so there is nothing to resolve.
        options = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
        subprocess.run([*pip, "install", *options, "--requirement", listed], check=True)

    key = cache.key_of(cache.file_key(listed), sys.version)
    return cache.entry(f"clients/{name}-{key}", make) / "bin/python"


def node_modules() -> Path:
    """The directory of what `node/package-lock.json` lists; programs are in its `.bin`."""
    lists = [HERE / "node" / name for name in ("package.json", "package-lock.json")]

    def make(place: Path) -> None:
        place.mkdir()
        for listed in lists:
            (place / listed.name).write_bytes(listed.read_bytes())
        # Some packages ask for a newer Node than they need; their programs bring their own.
        npm = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(npm, cwd=place, check=True)

    key = cache.key_of(*(cache.file_key(listed) for listed in lists))
    return cache.entry(f"clients/node-{key}", make) / "node_modules"
