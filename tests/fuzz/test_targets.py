# SPDX-License-Identifier: Apache-2.0
"""Each target, for moments with `make test` and for minutes with `make fuzz` (SPARKD_FUZZ_S)."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparkd.core.config.load import Source, SourceKind, parse

from .installed import cache, python
from .run import CORPUS
from .targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(os.environ.get("SPARKD_FUZZ_S", "2"))
AT_ONCE = 2
OVERHEAD_S = 240
"""To begin, and for one last input, on a machine that does other things as well."""
RUNS = re.compile(r"^stat::number_of_executed_units: +(\d+)$", re.MULTILINE)


def run(name: str, interpreter: Path) -> tuple[str, int, int, str]:
    """The target, how it ended, how many inputs it had, and its last words."""
    # What minutes have taught takes longer than moments to go through.
    kept = [cache.cache_dir() / "fuzz/kept" / name] if "SPARKD_FUZZ_S" in os.environ else []
    done = subprocess.run(
        ["nice", interpreter, "-m", "tests.fuzz.run", name, str(SECONDS), *kept],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=SECONDS + OVERHEAD_S,
        check=False,
    )
    tried = RUNS.search(done.stdout)
    said = "\n".join(line for line in done.stdout.splitlines() if not line.startswith("#"))
    return name, done.returncode, int(tried[1]) if tried else 0, said[-3000:]


def test_every_target_has_seeds_and_all_seeds_have_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
    assert [path for path in CORPUS.iterdir() if not any(path.iterdir())] == []


@pytest.mark.parametrize("seed", ["settings", "models", "every-key"])
def test_seed_of_a_configuration_is_read_to_its_end(seed: str) -> None:
    kind = SourceKind.SETTINGS if seed == "settings" else SourceKind.MODELS
    text = (CORPUS / "config" / seed).read_text()
    assert parse([Source(kind=kind, name=seed, text=text)]).problems == ()


@pytest.mark.timeout(len(TARGETS) * (SECONDS + OVERHEAD_S))
def test_no_input_that_is_found_in_the_time_breaks_a_promise() -> None:
    interpreter = python()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(lambda name: run(name, interpreter), TARGETS))
    broken = [f"{name} ended with {rc}:\n{said}" for name, rc, _, said in ended if rc]
    assert not broken, "\n\n".join(broken)
    for name, _, tried, said in ended:
        print(f"{name}: {tried} inputs")
        assert tried > len(list((CORPUS / name).iterdir())), said
