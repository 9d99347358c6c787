# SPDX-License-Identifier: Apache-2.0
"""What a host gets beyond Debian: the package, engine images, weights, catalog entries.

Builds each on this machine if it is missing and says by a key whether a host has it already. How
an engine is built is known to `tests/engines/build` alone.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from . import cache, furnish
from .console import HostError, say
from .guest import Guest
from .roottree import Suite

_REPOSITORY = Path(__file__).resolve().parents[3]
_ENGINES = _REPOSITORY / "tests" / "engines"


class Engine(StrEnum):
    """Which inference engines a host can start."""

    NONE = "none"
    FAKE = "fake"
    VLLM = "vllm"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing to put into a host. `key` is `kind:content`; a host has one of a kind."""

    key: str
    place: Callable[[Guest], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The parts of one host, in the order in which they are placed."""

    parts: tuple[Part, ...] = ()


def build(suite: Suite, engine: Engine) -> Wanted:
    """Build what is missing on this machine and return everything the host should have."""
    parts = [_package()]
    if engine in {Engine.FAKE, Engine.BOTH}:
        parts += [_image("fake", suite), _catalog("fake.yaml")]
    if engine in {Engine.VLLM, Engine.BOTH}:
        parts += [_image("vllm", suite), _weights(suite), _catalog("smollm2.yaml")]
    return Wanted(parts=(*parts, Part(key="socket:enabled", place=furnish.enable_socket)))


def _package() -> Part:
    with cache.lock("package"):
        deb = newest_deb()
        if deb is None:
            say("build the package: make deb")
            _run_visibly(["make", "deb"])
            deb = newest_deb()
    if deb is None:
        raise HostError("'make deb' left no dist/sparkd_*.deb")
    return Part(
        key=f"package:{cache.file_key(deb)}", place=partial(furnish.install_package, deb=deb)
    )


def newest_deb() -> Path | None:
    found = (_REPOSITORY / "dist").glob("sparkd_*.deb")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _image(name: str, suite: Suite) -> Part:
    archive = _built(name, suite)
    return Part(
        key=f"{name}-image:{archive.name}", place=partial(furnish.load_image, archive=archive)
    )


def _weights(suite: Suite) -> Part:
    weights = _built("model", suite)
    return Part(
        key=f"weights:{weights.parent.name}", place=partial(furnish.place_weights, weights=weights)
    )


def _catalog(name: str) -> Part:
    source = _ENGINES / "catalog" / name
    return Part(
        key=f"{name}:{cache.file_key(source)}", place=partial(furnish.place_catalog, source=source)
    )


def _built(what: str, suite: Suite) -> Path:
    """Return the path of an engine's product, built now unless it is in the cache."""
    printed = _run_visibly([_ENGINES / "build", what, "--suite", suite])
    path = Path(printed.strip().splitlines()[-1]) if printed.strip() else Path()
    if not path.is_absolute() or not path.exists():
        raise HostError(f"tests/engines/build {what} printed no path of what it built: '{path}'")
    return path


def _run_visibly(argv: list[str | Path]) -> str:
    """Run a build of the repository; its progress goes to the terminal, its output is returned."""
    done = subprocess.run(
        argv, cwd=_REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        command = shlex.join(os.fspath(part) for part in argv)
        raise HostError(f"'{command}' failed with exit status {done.returncode}")
    return done.stdout.decode(errors="replace")
