# SPDX-License-Identifier: Apache-2.0
"""The Debian system a host boots: which packages it has, where they come from, how it is built.

Ends with a tarball in the cache. What makes a host a *test* host (fake GPU, sparkd itself) is
added elsewhere, to the unpacked copy.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from . import cache
from .console import HostError, run_to_end, say


class Suite(StrEnum):
    """A Debian release that sparkd supports."""

    TRIXIE = "trixie"
    BOOKWORM = "bookworm"


# Raise this when the way the tree is built changes, so that cached trees are built again.
_RECIPE = "1"

_BOOT = "systemd systemd-sysv dbus dbus-user-session libpam-systemd"
# apt is told to leave recommended packages out, so Podman's are named.
_PODMAN = "podman crun conmon uidmap passt slirp4netns netavark aardvark-dns catatonit"
# The package's dependencies are in the tree already, because a host has no network.
_PYTHON = """
    python3 python3-httptools python3-multidict python3-aiofiles python3-websockets
    python3-ujson python3-httpx python3-yaml python3-psutil python3-requests python3-urllib3
    python3-sdnotify python3-dbus-fast python3-typing-extensions python3-prometheus-client
    python3-rich python3-setuptools python3-pytest
"""
_TOOLS = "util-linux curl iproute2 procps nftables ca-certificates strace lsof adduser jq"
PACKAGES = sorted(f"{_BOOT} {_PODMAN} {_PYTHON} {_TOOLS}".split())

_BOOTS = {"systemd-nspawn": "systemd-container"}
_BUILDS = {"mmdebstrap": "mmdebstrap"}
_DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SCALAR_OPTION = re.compile(r'^Acquire::((http|https|Check-|Retries|ForceIP).*) "(.*)";$')


def install_tools(*, build: bool = True) -> None:
    """Install on this machine what boots hosts and, with `build`, what makes their trees."""
    needed = {**_BOOTS, **_BUILDS} if build else _BOOTS
    missing = [pkg for command, pkg in needed.items() if not shutil.which(command)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise HostError(f"{', '.join(missing)} must be installed first, by root", "sudo make test")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    with cache.lock("apt"):
        say(f"install {' '.join(missing)} on this machine")
        try:
            run_to_end([*install, "--download-only"], what="apt-get download", env=env)
        except HostError:
            say("refresh this machine's package lists")
            run_to_end(["apt-get", "update"], what="apt-get update", env=env)
        run_to_end(install, what="apt-get install", env=env)


def tarball(suite: Suite) -> Path:
    """Return the tarball of a freshly installed system, built now unless it is in the cache."""
    return cache.entry(_entry(suite), lambda unfinished: _bootstrap(suite, unfinished))


def is_built(suite: Suite) -> bool:
    """Say whether the tarball is in the cache."""
    return (cache.cache_dir() / _entry(suite)).exists()


def _entry(suite: Suite) -> str:
    return f"trees/{suite}-{cache.key_of(_RECIPE, suite, *PACKAGES)}.tar"


def unpack(suite: Suite, target: Path) -> None:
    """Unpack that system into an empty directory."""
    source = tarball(suite)
    say(f"unpack the {suite} system")
    target.mkdir()
    keep = ["--numeric-owner", "--xattrs", "--xattrs-include=*"]
    run_to_end(["tar", "-C", target, *keep, "-xf", source], what=f"unpacking '{source}'")


def _bootstrap(suite: Suite, unfinished: Path) -> None:
    install_tools()
    uri, keyring = _mirror()
    say(f"install {len(PACKAGES)} packages and what they need into a {suite} system (about 40 s)")
    run_to_end(
        [
            "mmdebstrap",
            "--mode=root",
            "--variant=apt",
            "--format=tar",
            f"--include={','.join(PACKAGES)}",
            *(f"--aptopt={option}" for option in _apt_options()),
            suite.value,
            unfinished,
            f"deb [signed-by={keyring}] {uri} {suite} main",
        ],
        what=f"building the {suite} system",
        hint="see the lines above; the mirror is taken from this machine's apt sources",
    )
    say(f"the {suite} system is built")


def _apt_options() -> Iterator[str]:
    """Yield this machine's own apt settings that decide how a mirror is reached and trusted."""
    for line in run_to_end(["apt-config", "dump"], what="apt-config").splitlines():
        if match := _SCALAR_OPTION.match(line):
            yield f'Acquire::{match[1]} "{match[3]}"'
    yield 'Acquire::Languages "none"'


def _mirror() -> tuple[str, str]:
    """Return address and keyring of the Debian archive that this machine itself installs from."""
    parts = Path("/etc/apt/sources.list.d")
    for path in [*sorted(parts.glob("*.sources")), *sorted(parts.glob("*.list"))]:
        for found in _sources(path):
            return found
    for found in _sources(Path("/etc/apt/sources.list")):
        return found
    raise HostError(
        "no Debian archive is named in this machine's apt sources",
        "add Debian's main archive to /etc/apt/sources.list.d/debian.sources",
    )


def _sources(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (address, keyring) of each main archive of a Debian release in one apt source file."""
    if not path.exists():
        return
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    if path.suffix == ".sources":
        for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
            fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(\S.*?)\s*$", stanza, re.MULTILINE))
            suites = fields.get("Suites", "").split()
            main = "main" in fields.get("Components", "").split()
            if main and fields.get("Enabled", "yes") != "no" and _has_release(suites):
                yield fields["URIs"].split()[0], fields.get("Signed-By", _DEFAULT_KEYRING)
        return
    for line in lines:
        match = re.match(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+main\b", line)
        if match and _has_release([match[3]]):
            signed = re.search(r"signed-by=(\S+)", match[1] or "")
            yield match[2], signed[1] if signed else _DEFAULT_KEYRING


def _has_release(suites: list[str]) -> bool:
    """Say whether a plain release (not updates or security) of Debian is among the suites."""
    return any(suite in {*Suite, "stable", "oldstable", "testing", "sid"} for suite in suites)
