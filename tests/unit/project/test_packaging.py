# SPDX-License-Identifier: Apache-2.0
"""What the files of the package say of each other: versions, releases, what a build needs."""

from __future__ import annotations

import configparser
import re
import subprocess
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path

from sparkd import __version__
from tests.system.releases import tag_before
from tests.unit.project.sources import ROOT

ENTRY = re.compile(
    r"^sparkd \((?P<version>\S+)\) (?P<suite>\S+); urgency=\w+\n\n"
    r"(?P<notes>(?:(?:  .*)?\n)+?)"
    r"\n -- .+ <\S+@\S+>  (?P<date>.+)\n",
    re.MULTILINE,
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def entries() -> list[re.Match[str]]:
    return list(ENTRY.finditer(read("packaging/debian/changelog")))


def newest(one: str, other: str) -> bool:
    """Whether dpkg would call the first an upgrade of the second."""
    command = ["dpkg", "--compare-versions", one, "gt", other]
    return subprocess.run(command, check=False).returncode == 0


def test_every_place_that_states_the_version_states_the_same() -> None:
    changelog = entries()[0]["version"]
    assert changelog == __version__
    assert re.findall(r"^Version (\S+)\. Seen", read("README.md"), re.MULTILINE) == [__version__]
    for name in ("packaging/manpages.py", "packaging/sbom.py"):
        assert "sparkd/_version.py" in read(name), "it takes the version from where it is"
    setup = configparser.ConfigParser()
    setup.read_string(read("setup.cfg"))
    assert setup["metadata"]["version"] == "attr: sparkd._version.__version__"
    assert "version" not in read("pyproject.toml")
    printed = subprocess.run(
        [ROOT / "packaging/check-version.sh"], check=True, capture_output=True, text=True
    ).stdout
    assert printed == f"{__version__}\n"


def test_build_stops_where_changelog_and_code_disagree(tmp_path: Path) -> None:
    for name in ("packaging/check-version.sh", "packaging/debian/changelog", "sparkd/_version.py"):
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    (tmp_path / "sparkd/_version.py").write_text('__version__ = "999.1"\n')
    done = subprocess.run(
        ["sh", tmp_path / "packaging/check-version.sh"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "999.1" in done.stderr
    assert __version__ in done.stderr
    assert "check-version.sh" in read("packaging/build-deb.sh")
    assert "check-version.sh" in read("packaging/build-wheel.sh")


def test_changelog_goes_down_in_versions_and_dates_and_each_entry_says_what_changed() -> None:
    found = entries()
    headings = re.findall(r"^sparkd \(", read("packaging/debian/changelog"), re.MULTILINE)
    assert len(found) == len(headings) > 0
    for entry in found:
        assert re.search(r"^  \* \w", entry["notes"], re.MULTILINE), entry["version"]
    for newer, older in pairwise(found):
        assert newest(newer["version"], older["version"])
        assert parsedate_to_datetime(newer["date"]) > parsedate_to_datetime(older["date"])


def test_every_tag_of_a_release_is_an_entry_of_the_changelog() -> None:
    listed = subprocess.run(
        ["git", "tag", "--list", "v*", "--merged", "HEAD"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert {tag.removeprefix("v") for tag in listed} <= {entry["version"] for entry in entries()}


def test_every_unit_is_documented_and_names_its_page() -> None:
    text = read("docs/reference/units.md")
    for manager, heading in (
        ("system", "## Units of the system"),
        ("user", "## Units of the user"),
    ):
        section = text.partition(heading)[2].partition("\n## ")[0]
        for path in (ROOT / "units" / manager).iterdir():
            assert f"| `{path.name.replace('@', '@MODEL')}` |" in section, path
            assert "Documentation=man:sparkd.service(8)\n" in path.read_text(), path


def test_build_installs_whatever_it_says_that_it_needs() -> None:
    """Nothing else is looked at: dpkg's own check is off, as it wants a compiler."""
    (depends,) = re.findall(
        r"^Build-Depends: (.*)$", read("packaging/debian/control"), re.MULTILINE
    )
    wanted = {re.split(r"[ :(]", one.strip())[0] for one in depends.split(",")}
    (installed,) = re.findall(
        r"^for package in (.*); do$", read("packaging/build-deb.sh"), re.MULTILINE
    )
    assert {name.removesuffix("-compat") for name in wanted} <= set(installed.split())
    # debhelper depends on dpkg-dev, and everything here on Python.
    told = {"make", *installed.split()} - {"dpkg-dev", "python3"}
    for document in ("README.md", "docs/install.md"):
        (line,) = re.findall(
            r"^sudo apt install --no-install-recommends (make .*)$", read(document), re.MULTILINE
        )
        assert set(line.split()) == told, document


def test_release_before_is_the_nearest_tag_of_another_version(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        names = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
        subprocess.run(["git", *names, *words], cwd=tmp_path, check=True, capture_output=True)

    def release(version: str) -> None:
        git("commit", "--allow-empty", "--message", version)
        git("tag", f"v{version}")

    git("init")
    git("commit", "--allow-empty", "--message", "first")
    assert tag_before("0.1.0", tmp_path) is None
    git("tag", "not-a-release")
    assert tag_before("0.1.0", tmp_path) is None
    release("0.1.0")
    assert tag_before("0.1.0", tmp_path) is None, "this very one"
    release("0.2.0")
    assert tag_before("0.2.0", tmp_path) == "v0.1.0"
    git("commit", "--allow-empty", "--message", "later")
    assert tag_before("0.2.0", tmp_path) == "v0.1.0", "until the version is another"
    assert tag_before("0.3.0", tmp_path) == "v0.2.0"


def dependencies() -> dict[str, list[str]]:
    """Of each package the other cells of its row in the reference."""
    rows = re.findall(
        r"^\| `(\S+)` \|(.*)\|$", read("docs/reference/dependencies.md"), re.MULTILINE
    )
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_reference_names_every_dependency_and_no_release_has_less_than_is_asked() -> None:
    (field,) = re.findall(
        r"^Depends:\n((?: .*\n)+)", read("packaging/debian/control"), re.MULTILINE
    )
    asked = re.findall(r"([a-z][\w-]+)(?: \((>=|<<) (\S+)\))?(?=[ ,|\n])", field)
    bounds = {name: bound for name, relation, bound in asked if relation == ">="}
    table = dependencies()
    assert sorted(table) == sorted({name for name, _, _ in asked})
    setup = configparser.ConfigParser()
    setup.read_string(read("setup.cfg"))
    for line in setup["options"]["install_requires"].split():
        name, _, bound = line.partition(">=")
        debian = f"python3-{name.replace('_', '-').removeprefix('py')}"
        if bound:
            assert table[debian][0] == bound, "what pip asks for"
    for name, (least, *releases, purpose) in table.items():
        assert purpose or name in ("python3", "systemd"), name
        # Podman's bounds choose between two packages; the one on itself is 4.3.
        if name in bounds and name != "podman":
            assert least == bounds[name]
        assert len(releases) == 3
        for release in releases:
            assert not re.match(r"\d", least) or release == least or newest(release, least)
