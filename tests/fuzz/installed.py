# SPDX-License-Identifier: Apache-2.0
"""The interpreter that runs the targets: one with atheris, installed once into the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

sys.path.insert(0, str(HERE.parent / "host"))
from nspawn_host import cache  # noqa: E402

LISTED = HERE / "requirements.txt"


def python() -> Path:
    """Fails where this Python has no wheel of atheris, unless SPARKD_FUZZ_WITH=hypothesis."""
    if os.environ.get("SPARKD_FUZZ_WITH", "atheris") == "hypothesis":
        return Path(sys.executable)

    def make(place: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip = [place / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        options = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
        subprocess.run([*pip, "install", *options, "--requirement", LISTED], check=True)

    key = cache.key_of(cache.file_key(LISTED), sys.version)
    return cache.entry(f"fuzz/venv-{key}", make) / "bin/python"
