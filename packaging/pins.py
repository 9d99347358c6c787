#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the lists of foreign code, each package with its version and hashes: `make pins`.

A resolved list `NAME.txt` has a shorter, handwritten `NAME.in` beside it, which names the wanted
packages; the script adds their dependencies. The versions of the other lists are handwritten, and
the script adds no packages. In both cases versions that still fit stay. `--newer` takes the newest
releases of all packages that are not pinned by hand: dependencies, and the packages that sparkd's
package carries or is built with. uv queries the index; pip checks the written lists.

The lists name only files that can be installed where the list is used: no wheels of other systems,
and a source archive where there is no wheel. A release that no public index has, such as a local
build (`1.0+cpu`), keeps its handwritten hashes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
TOOLS = "packaging/pins-requirements.txt"
FOLLOWERS = ("setup.cfg", "tests/requirements.in")
"""Where a version of a carried wheel stands once more."""
TESTED = (11, 12, 13)
"""The Pythons that Debian 12, Ubuntu 24.04 and Debian 13 have: 3.11, 3.12 and 3.13."""
MACHINES = ("x86_64", "aarch64")
_ENTRY = re.compile(r"([\w.-]+)(\[[\w,-]+\])?==([\w.+!]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """A list, and the target on which its packages are installed."""

    path: str
    pythons: tuple[int, ...] = TESTED
    resolved: bool = False
    """Whether the list is generated from the `.in` beside it."""
    carried: bool = False
    """People choose names only; versions are the newest, and wheels have no machine code."""
    platform: str = "linux"
    """The platform that uv resolves for; a list for one kind of machine names it."""

    @property
    def wanted(self) -> str:
        return self.path.replace(".txt", ".in") if self.resolved else self.path


LISTS = (
    Pins(path="packaging/vendor.txt", carried=True),
    Pins(path="packaging/build-requirements.txt", carried=True),
    Pins(path=TOOLS),
    Pins(path="tests/requirements.txt", resolved=True),
    Pins(path="tests/clients/python/libraries.txt", resolved=True),
    Pins(path="tests/clients/python/litellm-proxy.txt", resolved=True),
    Pins(path="tests/clients/python/schemathesis.txt", resolved=True),
    Pins(path="tests/fuzz/requirements.txt"),
    Pins(path="tests/gpu/requirements.txt", pythons=(12,)),
    Pins(path="tests/engines/llama-cpp/requirements.txt"),
    Pins(path="tests/engines/smollm2/requirements.txt"),
    Pins(path="containerfiles/vllm-cpu/requirements.txt", pythons=(11,)),
    Pins(
        path="containerfiles/vllm/requirements.txt",
        pythons=(12,),
        resolved=True,
        platform="aarch64-manylinux_2_39",
    ),
)


def entries(text: str) -> list[str]:
    """The requirements of a list, each on one line."""
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def heading(text: str) -> list[str]:
    """The comment that a list begins with."""
    lines = text.splitlines()
    return lines[: next((i for i, line in enumerate(lines) if line[:1] != "#"), len(lines))]


def pins_of(text: str) -> dict[str, str]:
    """The packages of a list by normalized name, with their versions."""
    found = (_ENTRY.match(entry) for entry in entries(text))
    return {canonicalize_name(one[1]): one[3] for one in found if one}


def write(pins: Pins, *, newer: bool) -> None:
    path = ROOT / pins.path
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    wanted = (ROOT / pins.wanted).read_text(encoding="utf-8")
    if pins.carried and newer:
        given = [entry.split("==")[0] for entry in entries(wanted)]
    else:
        given = [entry.split()[0] for entry in entries(wanted)]
    local = [entry for entry in entries(before) if "+" in entry.split()[0]]
    if without := [entry for entry in local if "--hash=" not in entry]:
        raise SystemExit(f"{pins.path}: {without[0]} is in no index; write its hash (pip hash)")
    found = [
        *resolve(pins, [one for one in given if "+" not in one], {} if newer else pins_of(before)),
        *(" \\\n    ".join(entry.split()) for entry in local),
    ]
    if pins.resolved:
        top = [f"# Made by `make pins` from {Path(pins.wanted).name}: change that one."]
    else:
        top = heading(before)
    found.sort(key=str.lower)
    path.write_text("\n".join([*top, *found]) + "\n", encoding="utf-8")
    tell(pins, pins_of(before), pins_of(path.read_text(encoding="utf-8")))


def tell(pins: Pins, before: dict[str, str], after: dict[str, str]) -> None:
    """Print what changed; where a carried wheel is named once more, it is that version too."""
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        print(f"{pins.path}: {name} {old or 'new'} -> {new or 'gone'}")
        if pins.carried and old and new:
            for follower in FOLLOWERS:
                follow(ROOT / follower, name, old, new)


def follow(path: Path, name: str, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    pattern = rf"^(\s*{re.escape(name)}==){re.escape(old)}$"
    path.write_text(re.sub(pattern, rf"\g<1>{new}", text, flags=re.MULTILINE), encoding="utf-8")


def resolve(pins: Pins, given: Iterable[str], known: dict[str, str]) -> Iterator[str]:
    """Each package with its hashes, in the form that pip reads."""
    with tempfile.TemporaryDirectory() as place:
        source, kept, made = (Path(place) / name for name in ("in.txt", "kept.txt", "pylock.toml"))
        source.write_text("\n".join(given), encoding="utf-8")
        versions = [f"{name}=={version}" for name, version in known.items() if "+" not in version]
        kept.write_text("\n".join(versions), encoding="utf-8")
        command = [uv(), "pip", "compile", "--quiet", "--system-certs", "--format", "pylock.toml"]
        # A list that is wanted as it is needs no versions to be kept; one that nobody resolved
        # before has none.
        limits = ["--constraint", kept] if pins.resolved else ["--no-deps"]
        python = f"3.{min(pins.pythons)}"
        kind = ["--universal"] if pins.platform == "linux" else ["--python-platform", pins.platform]
        subprocess.run(
            [*command, *limits, *kind, "--python-version", python, "--output-file", made, source],
            check=True,
        )
        packages = tomllib.loads(made.read_text(encoding="utf-8"))["packages"]
    for package in packages:
        if (marker := package.get("marker")) and not anywhere(marker, pins):
            continue
        hashes = sorted(digests(package, pins))
        if not hashes:
            raise SystemExit(f"{pins.path}: no file of {package['name']} fits")
        entry = f"{package['name']}=={package['version']}"
        yield " \\\n    ".join([entry, *(f"--hash=sha256:{digest}" for digest in hashes)])


def anywhere(marker: str, pins: Pins) -> bool:
    """Whether a marker is true on any machine that the list is for."""
    return any(
        Marker(marker).evaluate(
            {
                "python_version": f"3.{minor}",
                "python_full_version": f"3.{minor}.0",
                "platform_machine": machine,
            }
        )
        for minor in pins.pythons
        for machine in MACHINES
    )


def digests(package: dict[str, Any], pins: Pins) -> set[str]:
    """The SHA-256 of each wheel that fits, or of the source archive where there is none."""
    fitting = {
        wheel["hashes"]["sha256"]
        for wheel in package.get("wheels", ())
        if fits(wheel["url"].rsplit("/", 1)[1].replace("%2B", "+"), pins)
    }
    if fitting or "sdist" not in package:
        return fitting
    return {package["sdist"]["hashes"]["sha256"]}


def fits(wheel: str, pins: Pins) -> bool:
    for tag in parse_wheel_filename(wheel)[3]:
        code = re.fullmatch(r"(?:cp|py)3(\d*)", tag.interpreter)
        if code is None:
            continue
        minor = int(code[1] or 0)
        exact = tag.abi.startswith("cp")
        if exact and tag.abi != tag.interpreter:
            continue  # A build without the global lock, or for debugging.
        if not any(minor == python if exact else minor <= python for python in pins.pythons):
            continue
        if tag.platform == "any":
            return True
        machine = re.fullmatch(r"(?:many)?linux(?:\d+)?(?:_\d+_\d+)?_(\w+)", tag.platform)
        if not pins.carried and machine and machine[1] in MACHINES:
            return True
    return False


def uv() -> Path:
    """The program, installed by hash into a directory beside this Python's environment."""
    place = Path(sys.prefix) / "pins-tools"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    options = ("--require-hashes", "--no-deps", "--upgrade", "--target", place)
    if not (place / "bin/uv").exists():
        subprocess.run([*pip, *options, "--requirement", ROOT / TOOLS], check=True)
    return place / "bin/uv"


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the lists of foreign code.")
    parser.add_argument(
        "--newer", action="store_true", help="take the newest of what no person pinned"
    )
    newer = parser.parse_args().newer
    for pins in LISTS:
        write(pins, newer=newer)
    print("pins: see `git diff`, then `make test`")


if __name__ == "__main__":
    main()
