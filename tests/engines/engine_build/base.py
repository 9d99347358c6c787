# SPDX-License-Identifier: Apache-2.0
"""The root tree on which the engine images stand: a small Debian 12 with Python 3.11.

Owns its package list and its tarball in the cache. It is Debian 12 on every host, because the
engines' wheels are for that Python.
"""

from collections.abc import Sequence
from pathlib import Path

from nspawn_host import cache, roottree
from nspawn_host.console import run_to_end, say

IMAGE = "localhost/sparkd-base:bookworm"
SUITE = "bookworm"
# util-linux has the flock that holds the GPU; libnuma1 is loaded by vLLM.
PACKAGES = ("ca-certificates", "libnuma1", "python3", "python3-venv", "util-linux")
UNREAD = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# Raise this when the way the tree is built changes, so that a cached one is built again.
RECIPE = "2"


def tarball(*also: str) -> Path:
    """Return the tarball, with further packages for an image that needs them."""
    packages = [*PACKAGES, *also]
    key = cache.key_of(RECIPE, SUITE, *packages, *UNREAD)
    return cache.entry(
        f"engines/base-{SUITE}-{key}.tar", lambda unfinished: _bootstrap(unfinished, packages)
    )


def _bootstrap(unfinished: Path, packages: Sequence[str]) -> None:
    roottree.install_tools()
    uri, keyring = roottree._mirror()
    say(f"install the engines' {SUITE} base system")
    run_to_end(
        [
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            "--format=tar",
            f"--include={','.join(packages)}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in UNREAD),
            *(f"--aptopt={option}" for option in roottree._apt_options()),
            # Rootless Podman could not make the device nodes; a container brings its own.
            "--skip=output/dev",
            "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*.bin $1/var/log/*",
            SUITE,
            unfinished,
            f"deb [signed-by={keyring}] {uri} {SUITE} main",
        ],
        what=f"building the {SUITE} base system",
        hint="see the lines above; the mirror is taken from this machine's apt sources",
    )
    unfinished.chmod(0o644)
