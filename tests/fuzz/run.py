# SPDX-License-Identifier: Apache-2.0
"""Runs one target for a time: `python -m tests.fuzz.run TARGET SECONDS [DIRECTORY]`.

With atheris, which looks where the bytes lead in `sparkd` and goes on from those that lead to
something new. What it learns stays in the directory, if one is given, and so does what it finds. It
begins with the seeds in `corpus/TARGET`: among them all that was ever found.

Without a directory it learns nothing, and the same inputs come each time, as far as time allows
and no further than `FIRST_INPUTS`: what it finds then, the last change has brought.

SPARKD_FUZZ_WITH=hypothesis does without atheris, for a Python that it has no wheel for: seeds are
spliced and damaged, blindly.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
LONGEST_BYTES = 4096
ONE_S = 60
"""An input that takes this long, on however busy a machine, is a finding."""
FIRST_INPUTS = 20_000
MEMORY_MIB = 1024


def main(name: str, seconds: int, directory: Path, *, same: bool) -> None:
    found = directory / "found"
    for place in (directory / "learnt", found):
        place.mkdir(parents=True, exist_ok=True)
    if os.environ.get("SPARKD_FUZZ_WITH", "atheris") == "hypothesis":
        with_hypothesis(name, seconds, same=same)
    else:
        with_atheris(name, seconds, directory / "learnt", found, same=same)


def with_atheris(name: str, seconds: int, learnt: Path, found: Path, *, same: bool) -> None:
    import atheris

    with atheris.instrument_imports(include=["sparkd"]):
        from tests.fuzz import targets
    options = [
        *(f"-max_total_time={seconds}", f"-timeout={ONE_S}", f"-rss_limit_mb={MEMORY_MIB}"),
        *(f"-max_len={LONGEST_BYTES}", f"-artifact_prefix={found}/", "-print_final_stats=1"),
    ]
    if same:
        options += ["-seed=1", f"-runs={FIRST_INPUTS}"]
    # The first directory takes what is new; the seeds are only read.
    atheris.Setup([name, *options, str(learnt), str(CORPUS / name)], targets.TARGETS[name])
    atheris.Fuzz()


def with_hypothesis(name: str, seconds: int, *, same: bool) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from tests.fuzz import targets

    check: Callable[[bytes], None] = targets.TARGETS[name]
    seeds = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    for seed in seeds:
        check(seed)
    tried, until_s = len(seeds), time.monotonic() + seconds

    @settings(
        max_examples=200,
        derandomize=same,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(st.sampled_from(seeds), st.integers(0, LONGEST_BYTES), st.binary(max_size=16), st.data())
    def damaged(seed: bytes, at: int, put: bytes, data: st.DataObject) -> None:
        nonlocal tried
        tried += 1
        lost = data.draw(st.integers(0, 16))
        check(seed[:at] + put + seed[at + lost :])

    damaged()
    while not same and time.monotonic() < until_s:
        damaged()
    print(f"stat::number_of_executed_units: {tried}", file=sys.stderr)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as nowhere:
        kept = len(sys.argv) > 3
        where = Path(sys.argv[3]) if kept else Path(nowhere)
        main(sys.argv[1], int(sys.argv[2]), where, same=not kept)
