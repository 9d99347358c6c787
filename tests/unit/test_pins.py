# SPDX-License-Identifier: Apache-2.0
"""Every list of foreign code that is installed names exact versions, and hashes where it must."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / place) for place in ("packaging", "tests/engines", "tests/host")]

from engine_build.pip import _verify  # noqa: E402
from nspawn_host.console import HostError  # noqa: E402
from pins import FOLLOWERS, HASHED, WHEELHOUSES, complete, normal, pin_of  # noqa: E402

PINNED = [
    path
    for pattern in ("containerfiles/*/requirements.txt", "tests/**/requirements.txt")
    for path in ROOT.glob(pattern)
] + list((ROOT / "tests/clients/python").glob("*.txt"))
PIN = r"[\w.-]+(\[\w+\])?==[\w.+!]+"


def entries(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("path", PINNED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_list_of_requirements_pins_exact_versions(path: Path) -> None:
    loose = [line for line in entries(path.read_text()) if not re.fullmatch(PIN, line)]
    assert loose == []


@pytest.mark.parametrize("name", HASHED)
def test_what_is_carried_or_builds_is_pinned_by_one_hash(name: str) -> None:
    lines = entries((ROOT / name).read_text())
    assert lines
    assert [one for one in lines if not re.fullmatch(PIN + r"\s+--hash=sha256:\w{64}", one)] == []


@pytest.mark.parametrize("name", WHEELHOUSES)
def test_every_wheel_of_a_test_image_has_its_hash(name: str) -> None:
    wheels = [line.split("  ")[1] for line in (ROOT / name).read_text().splitlines()]
    pins = [line.split("==") for line in entries((ROOT / WHEELHOUSES[name]).read_text())]
    assert sorted(map(pin_of, wheels)) == sorted((normal(one), version) for one, version in pins)


def test_carried_versions_are_those_that_tests_and_wheel_use() -> None:
    carried = dict(
        re.findall(r"^([\w-]+)==(\S+)", (ROOT / "packaging/vendor.txt").read_text(), re.MULTILINE)
    )
    for follower in FOLLOWERS:
        found = re.findall(r"^\s*([\w-]+)==(\S+)$", (ROOT / follower).read_text(), re.MULTILINE)
        used = {name: version for name, version in found if name in carried}
        assert used
        assert used == {name: carried[name] for name in used}


def test_refresh_drops_what_is_no_longer_wanted_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pins.ROOT", tmp_path)
    kept = f"{'a' * 64}  one_two-1.0-py3-none-any.whl\n"
    (tmp_path / "wheels").write_text(f"{kept}{'b' * 64}  three-2-py3-none-any.whl\n")
    (tmp_path / "wanted").write_text("# comment\none-two==1.0\n")
    complete("wheels", "wanted")
    assert (tmp_path / "wheels").read_text() == kept


def test_wheel_that_is_not_the_pinned_file_is_refused_with_its_hash(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "one-1-py3-none-any.whl").write_text("content")
    right = hashlib.sha256(b"content").hexdigest()
    hashes = tmp_path / "hashes"
    hashes.write_text(f"{right}  one-1-py3-none-any.whl\n")
    _verify(wheels, hashes)
    (wheels / "one-1-py3-none-any.whl").write_text("other content")
    with pytest.raises(HostError, match=hashlib.sha256(b"other content").hexdigest()):
        _verify(wheels, hashes)
