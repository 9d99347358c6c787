# SPDX-License-Identifier: Apache-2.0
"""Files that strangers put into the configuration never block, grow, or stop other entries."""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path

import pytest

from sparkd.adapters.files.config_files import ConfigPaths, load_config
from sparkd.core.model import Config

GOOD = "models: {good: {image: localhost/x}}\n"
WITHIN_S = 5.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    catalog = tmp_path / "models.d"
    catalog.mkdir()
    (catalog / "good.yaml").write_text(GOOD)
    return catalog


def load(catalog: Path) -> Config:
    began_s = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = load_config(
        ConfigPaths(
            settings=catalog.parent / "sparkd.yaml",
            local_catalog=catalog,
            shipped_catalog=catalog.parent / "none",
        )
    )
    assert time.monotonic() - began_s < WITHIN_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10
    return config


def laughs() -> bytes:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "content",
    [
        laughs(),
        b"models: " + b"[" * 500_000,
        b"models: " + b"{a: " * 200_000,
        b"\xff\xfe\x00m",
        b"models: {a: \x00}",
        b"m" * (2 << 20),
        b"- " * 400_000,
        b"models:\n" + b"  a: {}\n" * 80_000,
        b"%YAML 9.9\n---\n" * 1000,
        b"!!python/object/apply:os.system [true]",
    ],
    ids=["laughs", "lists", "maps", "utf16", "nul", "large", "dashes", "twice", "docs", "tag"],
)
def test_strange_text_is_a_problem_of_its_own_file_only(directory: Path, content: bytes) -> None:
    (directory / "zz.yaml").write_bytes(content)
    config = load(directory)
    assert "good" in config.models
    assert config.problems
    assert {problem.source for problem in config.problems} == {str(directory / "zz.yaml")}
    assert all(len(str(problem)) < 2000 for problem in config.problems[:50])


def test_everything_that_is_no_file_is_a_problem_and_never_waited_for(directory: Path) -> None:
    os.mkfifo(directory / "fifo.yaml")
    (directory / "zero.yaml").symlink_to("/dev/zero")
    (directory / "tty.yaml").symlink_to("/dev/ptmx")
    (directory / "dir.yaml").mkdir()
    (directory / "gone.yaml").symlink_to("/nowhere")
    (directory / "loop.yaml").symlink_to("loop.yaml")
    with open(directory / "large.yaml", "wb") as file:
        file.truncate(100 << 20)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "sock.yaml"))
        config = load(directory)
    assert "good" in config.models
    names = {Path(problem.source).stem for problem in config.problems}
    assert names == {"fifo", "zero", "tty", "dir", "gone", "loop", "large", "sock"}


def test_settings_that_are_no_file_are_a_problem_too(directory: Path) -> None:
    os.mkfifo(directory.parent / "sparkd.yaml")
    config = load(directory)
    assert not config.settings_ok
    assert "good" in config.models
