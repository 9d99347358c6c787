# SPDX-License-Identifier: Apache-2.0
"""The linters as tests. A missing tool is a visible skip, in CI a failure."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.unit.project.sources import ROOT

SPDX = "SPDX-License-Identifier: Apache-2.0"
SOURCE_NAMES = {"Makefile", "Containerfile"}
SOURCE_SUFFIXES = {
    *(".py", ".sh", ".yaml", ".toml", ".cfg"),
    *(".conf", ".mount", ".path", ".service", ".slice", ".socket", ".timer"),
}
UNWANTED = {
    "an absolute path of somebody's machine": r"(?<![\w.])/(work|home|Users)/[\w.]",
    "a path out of the repository": r"\.\./\.\./\.\.|\bshared/",
    "a mark that somebody meant to come back": r"\b(TODO|FIXME|XXX)\b",
    "a reference that readers cannot follow": r"\bissue [A-Z\d]\b|\bissue #",
}


def tool(name: str) -> str:
    """The path of a tool: that of this virtual environment, or else the system's."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    if found is None:
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing(f"{name} is missing")
    return found


def run(name: str, *arguments: str | Path, **environ: str) -> None:
    """Run a tool in the repository; what it says is the failure."""
    done = subprocess.run(
        [tool(name), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{name} ended with {done.returncode}:\n{done.stdout}", pytrace=False)


def project_files() -> list[Path]:
    """What is in the repository, or would be with the next commit."""
    listed = subprocess.run(
        [tool("git"), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip(f"this is no clone: {listed.stderr.strip()}")
    paths = {ROOT / name for name in listed.stdout.split("\0") if name}
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


@cache
def texts() -> tuple[tuple[Path, str], ...]:
    found = []
    for path in project_files():
        with contextlib.suppress(UnicodeDecodeError):
            found.append((path.relative_to(ROOT), path.read_text()))
    return tuple(found)


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--output-format=concise", ".")


def test_everything_is_formatted() -> None:
    run("ruff", "format", "--check", ".")


def test_types_are_right() -> None:
    run("mypy", "--strict", "sparkd")


def test_shell_scripts_have_no_known_trap() -> None:
    scripts = [name for name, text in texts() if re.match(r"#!.*\b(ba|da)?sh\b", text)]
    assert scripts
    run("shellcheck", *scripts)


@pytest.mark.parametrize(("kind", "option"), [("system", "--system"), ("user", "--user")])
def test_units_are_what_systemd_understands(kind: str, option: str, tmp_path: Path) -> None:
    copies = []
    for unit in sorted((ROOT / "units" / kind).iterdir()):
        # Our own commands are not installed here; systemd would only say so.
        text = unit.read_text().replace("=/usr/libexec/sparkd/", "=/usr/bin/true ")
        text = text.replace("=/usr/bin/sparkctl", "=/usr/bin/true")
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(text)
    run(
        *("systemd-analyze", "verify", option, "--man=no", "--recursive-errors=no"),
        *copies,
        XDG_RUNTIME_DIR=str(tmp_path),
    )


def test_changelog_is_as_wide_as_debian_has_it() -> None:
    lines = (ROOT / "packaging/debian/changelog").read_text().splitlines()
    assert [line for line in lines if len(line) > 80] == []


def test_every_source_names_its_licence() -> None:
    def is_source(name: Path, text: str) -> bool:
        known = name.suffix in SOURCE_SUFFIXES or name.name in SOURCE_NAMES
        return bool(text) and (known or text.startswith("#!"))

    lacking = [
        str(name)
        for name, text in texts()
        if is_source(name, text) and not any(SPDX in line for line in text.splitlines()[:2])
    ]
    assert lacking == []


@pytest.mark.parametrize("what", UNWANTED)
def test_nothing_in_the_repository_is_of_use_to_one_person_only(what: str) -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts()
        if name != Path(__file__).relative_to(ROOT)
        for number, line in enumerate(text.splitlines(), start=1)
        if re.search(UNWANTED[what], line)
    ]
    assert found == []
