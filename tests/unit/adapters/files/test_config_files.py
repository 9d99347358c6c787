# SPDX-License-Identifier: Apache-2.0
"""Configuration files and atomic writes, on a real file system."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sparkd.adapters.files.config_files import (
    MAX_FILE_BYTES,
    ConfigPaths,
    config_paths,
    load_config,
    remove_abandoned,
    write_atomically,
)
from sparkd.core.errors import HostError


@pytest.fixture
def paths(tmp_path: Path) -> ConfigPaths:
    found = config_paths(
        {
            "SPARKD_CONFIG_DIR": str(tmp_path / "etc"),
            "SPARKD_CATALOG_DIR": str(tmp_path / "usr"),
        }
    )
    found.local_catalog.mkdir(parents=True)
    found.shipped_catalog.mkdir()
    return found


def models(*ids: str, image: str = "localhost/x") -> str:
    return "models:\n" + "".join(f"  {model_id}: {{image: {image}}}\n" for model_id in ids)


def test_paths_are_the_fixed_ones_without_environment() -> None:
    assert config_paths({}) == ConfigPaths()
    assert config_paths({"SPARKD_CONFIG_DIR": "", "SPARKD_CATALOG_DIR": ""}) == ConfigPaths()


def test_environment_moves_both_directories() -> None:
    paths = config_paths({"SPARKD_CONFIG_DIR": "/a", "SPARKD_CATALOG_DIR": "/b"})
    assert paths == ConfigPaths(
        settings=Path("/a/sparkd.yaml"),
        api_key=Path("/a/api-key"),
        keys=Path("/a/keys.json"),
        shipped_catalog=Path("/b"),
        local_catalog=Path("/a/models.d"),
    )


def test_nothing_configured_is_an_empty_catalog_without_problems(tmp_path: Path) -> None:
    config = load_config(config_paths({"SPARKD_CONFIG_DIR": str(tmp_path / "none")}))
    assert config.settings_ok
    assert not config.problems


def test_settings_and_both_catalogs_are_read(paths: ConfigPaths, tmp_path: Path) -> None:
    paths.settings.write_text("idle_exit: 5s\n")
    (paths.shipped_catalog / "a.yaml").write_text(models("shipped"))
    (paths.local_catalog / "b.yaml").write_text(
        "models: {local: {image: localhost/x, weights: {repo: a/b}}}"
    )
    config = load_config(paths, weights_dir=tmp_path)
    assert config.settings.idle_exit_s == 5
    assert list(config.models) == ["shipped", "local"]
    weights = config.models["local"].weights
    assert weights
    assert weights.path == tmp_path / "a--b"


def test_local_file_replaces_shipped_file_of_the_same_name_whole(paths: ConfigPaths) -> None:
    (paths.shipped_catalog / "a.yaml").write_text(models("one", "two"))
    (paths.shipped_catalog / "b.yaml").write_text(models("three"))
    (paths.local_catalog / "a.yaml").write_text(models("two", image="localhost/mine"))
    config = load_config(paths)
    assert set(config.models) == {"two", "three"}
    assert config.models["two"].image == "localhost/mine"


def test_empty_file_and_link_to_dev_null_mask_shipped_files(paths: ConfigPaths) -> None:
    for name in ("a", "b", "c"):
        (paths.shipped_catalog / f"{name}.yaml").write_text(models(name))
    (paths.local_catalog / "a.yaml").symlink_to("/dev/null")
    (paths.local_catalog / "b.yaml").touch()
    config = load_config(paths)
    assert list(config.models) == ["c"]
    assert not config.problems


def test_local_entry_overrides_shipped_entry_of_another_file(paths: ConfigPaths) -> None:
    (paths.shipped_catalog / "z.yaml").write_text(models("one", "two"))
    (paths.local_catalog / "a.yaml").write_text(models("one", image="localhost/mine"))
    config = load_config(paths)
    assert config.models["one"].image == "localhost/mine"
    assert config.models["two"].image == "localhost/x"
    assert not config.problems


def test_hidden_and_foreign_names_are_not_read(paths: ConfigPaths) -> None:
    for name in (".a.yaml", "a.yaml~", "README", "a.yaml.dpkg-old"):
        (paths.local_catalog / name).write_text("[broken")
    assert not load_config(paths).problems


def test_yml_is_a_problem_that_says_how_to_rename(paths: ConfigPaths) -> None:
    (paths.local_catalog / "a.yml").write_text(models("one"))
    (problem,) = load_config(paths).problems
    assert problem.message == "only *.yaml is read"
    assert problem.hint.endswith(f"{paths.local_catalog}/a.yaml")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "not a file"),
        (os.mkfifo, "not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a file"),
        (lambda path: path.symlink_to("nowhere"), "cannot be read: No such file or directory"),
        (lambda path: path.write_bytes(b"#" * (MAX_FILE_BYTES + 1)), "too large"),
        (lambda path: path.write_bytes(b"a: 1\nb: \xff\n"), "not UTF-8 text"),
    ],
    ids=["directory", "fifo", "device", "dangling", "huge", "latin-1"],
)
def test_unreadable_file_is_a_problem_and_stops_no_other_file(
    paths: ConfigPaths, make: object, message: str
) -> None:
    assert callable(make)
    (paths.local_catalog / "good.yaml").write_text(models("one"))
    make(paths.local_catalog / "bad.yaml")
    config = load_config(paths)
    assert list(config.models) == ["one"]
    (problem,) = config.problems
    assert message in problem.message
    assert problem.source == str(paths.local_catalog / "bad.yaml")
    assert problem.hint


def test_line_of_the_first_byte_that_is_not_utf8_is_named(paths: ConfigPaths) -> None:
    paths.settings.write_bytes(b"# a\n# b\n# \xff\n")
    config = load_config(paths)
    assert not config.settings_ok
    assert config.problems[0].line == 3


def test_settings_that_are_not_a_file_are_a_problem_and_leave_defaults(
    paths: ConfigPaths,
) -> None:
    paths.settings.mkdir()
    config = load_config(paths)
    assert not config.settings_ok
    assert config.settings.idle_exit_s == 60


def test_config_dir_that_may_not_be_entered_is_a_problem_not_an_empty_config(
    as_nobody: Path,
) -> None:
    closed = as_nobody / "closed"
    closed.mkdir()
    closed.chmod(0)
    config = load_config(config_paths({"SPARKD_CONFIG_DIR": str(closed)}))
    assert not config.settings_ok
    messages = {problem.source: problem.message for problem in config.problems}
    assert messages[str(closed / "sparkd.yaml")] == "cannot be read: Permission denied"
    assert messages[str(closed / "models.d")] == "cannot be read: Permission denied"


def test_atomic_write_replaces_content_mode_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    path.write_bytes(b"old")
    before = path.stat().st_ino
    write_atomically(path, b"new", mode=0o640, gid=os.getegid())
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_ino != before
    assert os.listdir(tmp_path) == ["stats"]


def test_reader_of_the_old_file_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    write_atomically(path, b"old", mode=0o600)
    with path.open("rb") as reader:
        write_atomically(path, b"new", mode=0o600)
        assert reader.read() == b"old"


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.mkdir()
    with pytest.raises(HostError, match="cannot write"):
        write_atomically(path, b"new", mode=0o600)
    assert os.listdir(tmp_path) == ["target"]


_WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
from sparkd.adapters.files.config_files import write_atomically
from sparkd.core.errors import HostError

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path(sys.argv[1]), bytes(8192), mode=0o600)
except HostError as error:
    print(error.message)
"""


def test_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "target"
    write_atomically(path, b"old", mode=0o600)
    writer = [sys.executable, "-c", _WRITE_TOO_MUCH, str(path)]
    done = subprocess.run(writer, check=True, capture_output=True, text=True)
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert os.listdir(tmp_path) == ["target"]
    assert path.read_bytes() == b"old"


def test_write_into_no_directory_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="ls -ld"):
        write_atomically(tmp_path / "none" / "file", b"", mode=0o600)


_KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from sparkd.adapters.files.config_files import write_atomically

os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), b"half", mode=0o600)
"""


def test_what_a_killed_writer_left_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stats"
    write_atomically(path, b"old", mode=0o600)
    writer = [sys.executable, "-c", _KILLED_WHILE_WRITING, str(path)]
    assert subprocess.run(writer, check=False).returncode == -signal.SIGKILL
    (tmp_path / ".hidden.tmp").touch()
    (tmp_path / ".hidden.1-short.tmp").touch()
    assert len(os.listdir(tmp_path)) == 4

    def meanwhile(source: Path, target: Path) -> None:
        remove_abandoned([tmp_path, tmp_path / "none"])
        source.rename(target)

    monkeypatch.setattr(os, "replace", meanwhile)
    write_atomically(path, b"new", mode=0o600)
    assert sorted(os.listdir(tmp_path)) == [".hidden.1-short.tmp", ".hidden.tmp", "stats"]
    assert path.read_bytes() == b"new"
