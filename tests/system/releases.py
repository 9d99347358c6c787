# SPDX-License-Identifier: Apache-2.0
"""The release before this one: the package that people upgrade from, built from its tag."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / "tests/host"))
from nspawn_host import cache  # noqa: E402


def tag_before(version: str, tree: Path = ROOT) -> str | None:
    """The nearest tag of another version; None where there is none, as in a clone without tags."""
    nearest = ["git", "describe", "--tags", "--abbrev=0", "--match", "v*"]
    done = subprocess.run(
        [*nearest, "--exclude", f"v{version}"],
        cwd=tree,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or None


def package_of(tag: str, tree: Path = ROOT) -> Path:
    """Build the package of a tag by its own means; it is kept in the cache."""
    commit = subprocess.run(
        ["git", "rev-parse", f"{tag}^{{commit}}"],
        cwd=tree,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()

    def build(unfinished: Path) -> None:
        with tempfile.TemporaryDirectory() as place:
            files = ["git", "archive", "--output", f"{place}/files.tar", commit]
            subprocess.run(files, cwd=tree, check=True)
            (Path(place) / "tree").mkdir()
            unpack = ["tar", "-C", f"{place}/tree", "-xf", f"{place}/files.tar"]
            subprocess.run(unpack, check=True)
            made = Path(place) / "tree/packaging/build-deb.sh"
            subprocess.run([made], check=True, stdin=subprocess.DEVNULL)
            (deb,) = (Path(place) / "tree/dist").glob("sparkd_*_all.deb")
            shutil.copyfile(deb, unfinished)

    return cache.entry(f"releases/{tag}-{commit[:16]}.deb", build)
