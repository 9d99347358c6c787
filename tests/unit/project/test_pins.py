# SPDX-License-Identifier: Apache-2.0
"""Every list of foreign code that is installed names exact versions, and files by their hashes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.project.sources import ROOT

sys.path.insert(0, str(ROOT / "packaging"))

import pins as pinning
from pins import FOLLOWERS, LISTS, Pins, anywhere, digests, entries, pins_of

PIN = r"[\w.-]+(\[[\w,]+\])?==[\w.+!]+"
CARRIED = "packaging/vendor.txt"
MULTI = Pins(path="list.txt")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def test_every_list_that_pip_could_install_from_is_one_that_is_refreshed() -> None:
    lists = {
        str(path.relative_to(ROOT))
        for path in tracked("*.txt")
        if path.name.endswith("requirements.txt")
        or any(re.match(PIN, line) for line in path.read_text().splitlines())
    }
    assert lists == {pins.path for pins in LISTS}


@pytest.mark.parametrize("pins", LISTS, ids=lambda pins: pins.path)
def test_every_entry_is_one_version_and_what_it_hashes_to(pins: Pins) -> None:
    lines = entries((ROOT / pins.path).read_text())
    assert lines
    # One file for all machines, or one for each.
    count = "{1}" if pins.carried else "+"
    entry = rf"{PIN}(\s+--hash=sha256:[0-9a-f]{{64}}){count}"
    assert [line for line in lines if not re.fullmatch(entry, line)] == []
    assert lines == sorted(lines, key=str.lower), "make pins would write it in another order"


@pytest.mark.parametrize("pins", [p for p in LISTS if p.resolved], ids=lambda pins: pins.path)
def test_what_is_wanted_is_one_version_and_is_in_the_list(pins: Pins) -> None:
    text = (ROOT / pins.wanted).read_text()
    assert [line for line in entries(text) if not re.fullmatch(PIN, line)] == []
    wanted, listed = pins_of(text), pins_of((ROOT / pins.path).read_text())
    assert wanted
    assert wanted == {name: listed.get(name) for name in wanted}, "make pins"


def test_pip_reads_every_list_and_finds_all_of_it_pinned_by_hash() -> None:
    """With pip's own parser, asking no index."""
    script = """
import sys
from pip._internal.network.session import PipSession
from pip._internal.req import parse_requirements
from pip._internal.req.constructors import install_req_from_parsed_requirement
for name in sys.argv[1:]:
    for parsed in parse_requirements(name, PipSession()):
        one = install_req_from_parsed_requirement(parsed)
        assert one.is_pinned and one.has_hash_options, f"{name}: {one}"
        print(one.name)
"""
    command = [sys.executable, "-c", script, *(ROOT / pins.path for pins in LISTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == sum(
        len(entries((ROOT / pins.path).read_text())) for pins in LISTS
    )


def test_whoever_installs_from_a_list_asks_for_its_hashes() -> None:
    """pip checks none of a list that has none, so that one without would go unseen."""
    tests = Path(__file__).parent
    users = [
        path
        for path in tracked("Makefile", "*.py", "*.sh", "*Containerfile", "tests/engines/make-*")
        if tests not in path.parents and re.search(r'[" ]--requirement\b', path.read_text())
    ]
    assert len(users) > 8
    for path in users:
        text = path.read_text()
        # Of a source tree that is itself pinned by its commit.
        others = text.count("--requirement requirements/build.txt")
        assert text.count("--require-hashes") == text.count("--requirement") - others, path


def for_this_kind_of_machine(package: dict[str, Any]) -> bool:
    """Whether npm installs it on Linux on x86-64; of others not all hashes are known."""
    mine = {"os": "linux", "cpu": "x64", "libc": "glibc"}
    return all(value in package.get(field, [value]) for field, value in mine.items())


def test_everything_that_npm_installs_on_x86_is_locked_by_hash() -> None:
    lock = json.loads((ROOT / "tests/clients/node/package-lock.json").read_text())
    wanted = json.loads((ROOT / "tests/clients/node/package.json").read_text())["dependencies"]
    assert lock["lockfileVersion"] == 3
    assert lock["packages"][""]["dependencies"] == wanted
    packages = {
        name: one
        for name, one in lock["packages"].items()
        if name and for_this_kind_of_machine(one)
    }
    assert len(packages) > len(wanted)
    assert [name for name, one in packages.items() if "sha512-" not in one["integrity"]] == []
    assert '["npm", "ci",' in (ROOT / "tests/clients/installed.py").read_text()


def test_carried_versions_are_those_that_tests_and_wheel_use() -> None:
    carried = pins_of((ROOT / CARRIED).read_text())
    for follower in FOLLOWERS:
        found = re.findall(r"^\s*([\w-]+)==(\S+)$", (ROOT / follower).read_text(), re.MULTILINE)
        used = {name: version for name, version in found if name in carried}
        assert used
        assert used == {name: carried[name] for name in used}
    tested = pins_of((ROOT / "tests/requirements.txt").read_text())
    assert carried == {name: tested[name] for name in carried}


def file(name: str) -> dict[str, object]:
    return {"url": f"https://index/{name}", "hashes": {"sha256": name}}


@pytest.mark.parametrize(
    ("wheel", "wanted"),
    [
        ("one-1-py3-none-any.whl", True),
        ("one-1-py2.py3-none-any.whl", True),
        ("one-1-py2-none-any.whl", False),
        ("one-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("one-1-cp313-cp313-manylinux_2_28_aarch64.whl", True),
        ("one-1-cp38-abi3-manylinux2014_aarch64.whl", True),
        ("one-1-cp314-abi3-manylinux2014_aarch64.whl", False),
        ("one-1-cp310-cp310-manylinux2014_x86_64.whl", False),
        ("one-1-cp313-cp313t-manylinux2014_x86_64.whl", False),
        ("one-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("one-1-cp311-cp311-macosx_11_0_arm64.whl", False),
        ("one-1-cp311-cp311-win_amd64.whl", False),
        ("one-1-cp311-cp311-manylinux2014_armv7l.whl", False),
        ("one-1%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl", True),
    ],
)
def test_a_list_names_the_wheels_of_its_pythons_and_machines_only(wheel: str, wanted: bool) -> None:
    package = {"name": "one", "wheels": [file(wheel)]}
    assert digests(package, MULTI) == ({wheel} if wanted else set())


def test_a_source_archive_is_named_only_where_there_is_no_wheel() -> None:
    source = file("one-1.tar.gz")
    pure = file("one-1-py3-none-any.whl")
    foreign = file("one-1-cp311-cp311-win_amd64.whl")
    assert digests({"sdist": source, "wheels": [foreign, pure]}, MULTI) == {
        "one-1-py3-none-any.whl"
    }
    assert digests({"sdist": source, "wheels": [foreign]}, MULTI) == {"one-1.tar.gz"}
    assert digests({"sdist": source}, MULTI) == {"one-1.tar.gz"}


def test_what_only_other_systems_need_is_left_out() -> None:
    assert not anywhere("sys_platform == 'win32'", MULTI)
    assert anywhere("python_full_version < '3.11.3'", MULTI)
    assert not anywhere("python_version < '3.12'", Pins(path="list.txt", pythons=(12,)))


def test_hashes_of_what_no_index_has_are_kept_and_one_without_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinning, "ROOT", tmp_path)
    monkeypatch.setattr(
        pinning, "resolve", lambda _, given, __: [f"{one} \\\n    --hash=new" for one in given]
    )
    path = tmp_path / "list.txt"
    path.write_text("# why\nlocal==1+cpu --hash=sha256:given\nother-one==3 --hash=old\n")
    pinning.write(MULTI, newer=False)
    assert path.read_text() == (
        "# why\nlocal==1+cpu \\\n    --hash=sha256:given\nother-one==3 \\\n    --hash=new\n"
    )
    path.write_text("local==1+cpu\n")
    with pytest.raises(SystemExit, match=r"list.txt: local==1\+cpu is in no index"):
        pinning.write(MULTI, newer=False)
