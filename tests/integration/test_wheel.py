# SPDX-License-Identifier: Apache-2.0
"""sdist and wheel: a virtual environment with nothing else gets a sparkd that finds its parts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sparkd.core.container.spec import SECCOMP_PROFILE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built() -> Path:
    subprocess.run([ROOT / "packaging/build-wheel.sh"], check=True, stdin=subprocess.DEVNULL)
    return ROOT / "dist"


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    (wheel,) = built.glob("sparkd-*-py3-none-any.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    # Versions only: pip takes no hashes for what a wheel asks for by a range.
    constraint = place / "versions.txt"
    versions = re.findall(r"^\S+==\S+", (ROOT / "tests/requirements.txt").read_text(), re.MULTILINE)
    constraint.write_text("\n".join(versions))
    pip(place, "install", "--quiet", "--no-compile", "--constraint", str(constraint), str(wheel))
    return place


def pip(environment: Path, *arguments: str) -> str:
    command = (sys.executable, "-m", "pip", "--python", str(environment), *arguments)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def run(environment: Path, program: str, *arguments: str) -> str:
    """What a program of the environment prints, far from the clone and without its settings."""
    done = subprocess.run(
        [environment / "bin" / program, *arguments],
        cwd=environment,
        env={"PATH": os.environ["PATH"], "SPARKD_CONFIG_DIR": str(environment / "none")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_brings_all_it_needs_and_says_its_version(environment: Path, built: Path) -> None:
    (wheel,) = built.glob("sparkd-*-py3-none-any.whl")
    version = wheel.name.split("-")[1]
    assert run(environment, "sparkctl", "--version") == f"sparkctl {version}\n"
    assert run(environment, "sparkd", "--version") == f"sparkd {version}\n"
    assert "No broken requirements" in pip(environment, "check")


def test_sparkctl_of_a_wheel_finds_the_catalog_and_the_recipes(environment: Path) -> None:
    run(environment, "sparkctl", "check")
    models = json.loads(run(environment, "sparkctl", "models", "--json"))
    assert "gpt-oss-20b" in {model["id"] for model in models}
    share = environment / "share/sparkd"
    for ours in (ROOT / "etc/models.d", ROOT / "containerfiles"):
        assert files_of(share / ours.name) == files_of(ours)


def files_of(directory: Path) -> set[Path]:
    return {
        path.relative_to(directory)
        for path in directory.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_wheel_has_the_list_of_what_models_may_call(environment: Path) -> None:
    script = "from sparkd.core.container.spec import SECCOMP_PROFILE as path; print(path)"
    path = Path(run(environment, "python", "-c", script).strip())
    assert path.is_relative_to(environment)
    assert path.read_text() == SECCOMP_PROFILE.read_text()


def test_gateway_of_a_wheel_has_its_page(environment: Path) -> None:
    script = "from sparkd.gateway.handlers.page import assembled; print(len(assembled().text))"
    assert int(run(environment, "python", "-c", script)) > 10_000


def test_sdist_has_everything_that_a_package_is_made_of(built: Path) -> None:
    (sdist,) = built.glob("sparkd-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(
        ["git", "ls-files", "LICENSE", "containerfiles", "docs", "etc", "packaging", "units"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert listed
    assert set(listed) - names == set()
