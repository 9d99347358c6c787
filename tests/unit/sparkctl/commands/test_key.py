# SPDX-License-Identifier: Apache-2.0
"""`sparkctl key add`, `list` and `revoke`: what they write and what they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparkd.adapters.files.config_files import config_paths
from sparkd.adapters.files.key_files import KeyFiles
from sparkd.core.access import api_keys, auth
from sparkd.core.access.api_keys import ApiKey, Scope
from sparkd.sparkctl import main
from sparkd.sparkctl.exit_codes import Exit
from tests.unit.project.sources import ROOT


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARKD_CONFIG_DIR", str(tmp_path))
    (tmp_path / "api-key").touch(mode=0o600)
    (tmp_path / "api-key").write_text("sk-package\n")
    return tmp_path


def keys(etc: Path) -> list[ApiKey]:
    paths = config_paths({"SPARKD_CONFIG_DIR": str(etc)})
    return list(KeyFiles(paths, {}).current(0).keys.values())


def test_added_key_is_printed_alone_on_the_last_line_and_kept_as_a_hash(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "qwen*", "--concurrent", "2", "--per-minute", "60"]
    assert main.main(["key", "add", "laptop", *options, "--expires", "2999-01-31"]) == Exit.OK
    secret = capsys.readouterr().out.splitlines()[-1]
    text = (etc / "keys.json").read_text()
    assert secret.removeprefix("sk-sparkd-") not in text
    assert (etc / "keys.json").stat().st_mode & 0o7777 == 0o640
    (key,) = (key for key in keys(etc) if key.name == "laptop")
    assert (key.digest,) == auth.presented(f"Bearer {secret}")
    assert (key.scopes, key.models) == ((Scope.INFERENCE,), ("qwen*",))
    assert (key.concurrent, key.per_minute, key.expires_at) == (2, 60, "2999-01-31T00:00:00Z")


def test_scopes_are_those_that_were_given(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["key", "add", "a", "--scope", "admin", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert (answer["name"], answer["scopes"]) == ("a", ["admin"])
    assert auth.presented(None, answer["key"]) == (keys(etc)[0].digest,)
    main.main(["key", "add", "b", "--scope", "admin", "--scope", "inference", "--scope", "admin"])
    assert keys(etc)[1].scopes == (Scope.INFERENCE, Scope.ADMIN)


def test_name_that_is_taken_is_refused_and_changes_nothing(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main.main(["key", "add", "laptop"])
    before = (etc / "keys.json").read_bytes()
    assert main.main(["key", "add", "laptop", "--scope", "admin"]) == Exit.USAGE
    assert "there is a key 'laptop' already" in capsys.readouterr().err
    assert (etc / "keys.json").read_bytes() == before


def test_revoked_key_is_gone_and_the_others_stay(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        main.main(["key", "add", name])
    assert main.main(["key", "revoke", "b"]) == Exit.OK
    assert [key.name for key in keys(etc)] == ["a", "c", "api-key"]
    assert main.main(["key", "revoke", "b"]) == Exit.NOT_FOUND
    assert "there is no key 'b'" in capsys.readouterr().err


def test_list_shows_every_key_and_no_secret(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["key", "add", "laptop", "--model", "small", "--per-minute", "9"])
    secret = capsys.readouterr().out.splitlines()[-1]
    assert main.main(["key", "list"]) == Exit.OK
    header, package, laptop = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["NAME", "SCOPES", "MODELS"]
    assert package.split()[:3] == ["api-key", "inference,admin", "all"]
    assert laptop.split()[:5] == ["laptop", "inference", "small", "-", "9"]
    assert "sk-package" not in package
    assert main.main(["key", "list", "--json"]) == Exit.OK
    printed = capsys.readouterr().out
    assert [key["name"] for key in json.loads(printed)] == ["api-key", "laptop"]
    assert secret not in printed
    assert api_keys.digest(secret.encode()) not in printed


def test_list_of_a_broken_file_says_where_it_is_broken(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (etc / "keys.json").touch(mode=0o640)
    (etc / "keys.json").write_text('{"keys": [{}]}')
    for words in (["list"], ["add", "x"], ["revoke", "x"]):
        assert main.main(["key", *words]) == Exit.CONFIGURATION
        assert "keys.json: key 1: 'name' must be a string" in capsys.readouterr().err
    assert (etc / "keys.json").read_text() == '{"keys": [{}]}'


def test_keys_that_are_added_at_the_same_time_are_all_kept(etc: Path) -> None:
    program = "import sys; from sparkd.sparkctl.main import main; sys.exit(main())"
    adding = [
        subprocess.Popen(
            [sys.executable, "-c", program, "key", "add", f"key-{number}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        for number in range(4)
    ]
    assert [process.wait(60) for process in adding] == [0] * 4
    assert {key.name for key in keys(etc)} == {"api-key", *(f"key-{n}" for n in range(4))}
    assert {path.name for path in etc.iterdir()} == {"api-key", "keys.json", ".keys.json.lock"}
