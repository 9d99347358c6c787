# SPDX-License-Identifier: Apache-2.0
"""Wheels for the images of engines: which files come, from which index, and that no other does."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / place) for place in ("tests/engines", "tests/host")]

from engine_build import pip  # noqa: E402
from nspawn_host.console import HostError  # noqa: E402

pytestmark = pytest.mark.integration


class Index:
    """A package index that is a directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()

    def add(self, name: str, version: str, tags: str) -> str:
        """Put a wheel there; what a list says of it."""
        project = self.place / name
        project.mkdir(exist_ok=True)
        file = project / f"{name}-{version}-{tags}.whl"
        with zipfile.ZipFile(file, "w") as wheel:
            about = f"{name}-{version}.dist-info"
            wheel.writestr(
                f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
            wheel.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nTag: {tags}\n")
            wheel.writestr(f"{about}/RECORD", "")
        links = (f'<a href="{one.name}">{one.name}</a>' for one in sorted(project.glob("*.whl")))
        (project / "index.html").write_text("\n".join(links))
        return f"{name}=={version} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(tmp_path / "index")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", index.place.as_uri())
    monkeypatch.setenv("SPARKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pip, "python", lambda: Path(sys.executable))
    return index


def fetched(tmp_path: Path, *lines: str) -> set[str]:
    listed = tmp_path / "requirements.txt"
    listed.write_text("# why\n" + "\n".join(line.replace(" --", " \\\n    --") for line in lines))
    return {wheel.name for wheel in pip.wheelhouse("test", listed).iterdir()}


def test_wheels_are_for_the_python_of_the_images_whichever_runs_here(
    index: Index, tmp_path: Path
) -> None:
    machine = f"manylinux_2_17_{pip.platform.machine()}"
    wanted = index.add("compiled", "1", f"cp311-cp311-{machine}")
    index.add("compiled", "1", f"cp313-cp313-{machine}")
    pure = index.add("pure", "2", "py3-none-any")
    assert fetched(tmp_path, wanted, pure) == {
        f"compiled-1-cp311-cp311-{machine}.whl",
        "pure-2-py3-none-any.whl",
    }


def test_builds_that_the_index_lacks_come_from_pytorchs(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Index(tmp_path / "theirs")
    monkeypatch.setattr(pip, "PYTORCH", theirs.place.as_uri())
    local = theirs.add("torch", "2+cpu", "py3-none-any")
    pure = index.add("pure", "2", "py3-none-any")
    assert fetched(tmp_path, pure, local) == {
        "pure-2-py3-none-any.whl",
        "torch-2+cpu-py3-none-any.whl",
    }


def test_file_of_another_hash_is_refused_and_nothing_is_kept(index: Index, tmp_path: Path) -> None:
    index.add("pure", "2", "py3-none-any")
    with pytest.raises(HostError):
        fetched(tmp_path, f"pure==2 --hash=sha256:{'0' * 64}")
    assert list((tmp_path / "cache/engines").glob("wheels-*")) == []
