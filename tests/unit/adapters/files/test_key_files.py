# SPDX-License-Identifier: Apache-2.0
"""The files of API keys, on a real file system: what is read, what is refused, what is noticed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from sparkd.adapters.files.config_files import ConfigPaths, config_paths, write_atomically
from sparkd.adapters.files.key_files import KeyFiles, read_keys, read_secrets
from sparkd.core.access import api_keys
from sparkd.core.access.api_keys import ApiKey, Keyring, Scope
from sparkd.core.errors import Misconfigured

LAPTOP = ApiKey(name="laptop", digest=api_keys.digest(b"of-laptop"))
DESK = ApiKey(name="desk", digest=api_keys.digest(b"of-desk"), scopes=(Scope.ADMIN,))


@pytest.fixture
def paths(tmp_path: Path) -> ConfigPaths:
    return config_paths({"SPARKD_CONFIG_DIR": str(tmp_path)})


def put(path: Path, text: str, mode: int = 0o640) -> None:
    path.write_text(text)
    path.chmod(mode)


def put_keys(path: Path, *keys: ApiKey) -> None:
    write_atomically(path, api_keys.write(keys).encode(), mode=0o640)


def ring_of(files: KeyFiles) -> Keyring:
    return files.current(0, at_once=True)


def names(files: KeyFiles) -> list[str]:
    return sorted(key.name for key in ring_of(files).keys.values())


def test_secrets_are_lines_without_blanks_and_comments(paths: ConfigPaths) -> None:
    put(paths.api_key, "# mine\n\n  key-one  \nkey#two\n")
    assert read_secrets(paths.api_key) == ("key-one", "key#two")


@pytest.mark.parametrize("text", [None, "", "\n# only a comment\n"])
def test_missing_or_empty_key_file_says_how_to_make_a_key(
    paths: ConfigPaths, text: str | None
) -> None:
    if text is not None:
        put(paths.api_key, text)
    with pytest.raises(Misconfigured) as caught:
        read_secrets(paths.api_key)
    assert caught.value.hint == "sudo sparkctl key rotate"
    assert str(paths.api_key) in caught.value.message


@pytest.mark.parametrize("name", ["api-key", "keys.json"])
def test_key_file_open_to_everybody_is_refused(paths: ConfigPaths, name: str) -> None:
    path = paths.api_key.with_name(name)
    put(path, "planted-key\n", mode=0o644)
    with pytest.raises(Misconfigured, match="mode 0644") as caught:
        (read_secrets if name == "api-key" else read_keys)(path)
    assert "planted-key" not in str(caught.value)


@pytest.mark.parametrize("line", ["planted key", "planted\x01key", "plantedéy", "planted\tkey"])
def test_secret_that_no_header_can_carry_is_refused_unnamed(paths: ConfigPaths, line: str) -> None:
    put(paths.api_key, f"good\n{line}\n")
    with pytest.raises(Misconfigured, match=r"api-key:2: ") as caught:
        read_secrets(paths.api_key)
    assert "planted" not in str(caught.value)


def test_key_file_of_another_user_says_what_to_do(as_nobody: Path) -> None:
    put(as_nobody / "api-key", "key\n", mode=0)
    with pytest.raises(Misconfigured, match="sudo chgrp sparkd"):
        read_secrets(as_nobody / "api-key")


@pytest.mark.parametrize("content", [b"\xff\n", None], ids=["binary", "directory"])
def test_key_file_that_is_no_text_file_is_refused(
    paths: ConfigPaths, content: bytes | None
) -> None:
    if content is None:
        paths.api_key.mkdir()
    else:
        paths.api_key.write_bytes(content)
        paths.api_key.chmod(0o600)
    with pytest.raises(Misconfigured, match="not readable"):
        read_secrets(paths.api_key)


def test_keys_of_both_files_count_and_those_of_the_package_may_do_everything(
    paths: ConfigPaths,
) -> None:
    put(paths.api_key, "one\ntwo\n")
    put_keys(paths.keys, LAPTOP)
    ring = ring_of(KeyFiles(paths, {}))
    assert ring.error is None
    assert ring.keys[LAPTOP.digest] == LAPTOP
    for secret in (b"one", b"two"):
        key = ring.keys[api_keys.digest(secret)]
        assert (key.name, key.scopes, key.models) == ("api-key", tuple(Scope), ())


def test_credentials_go_before_the_files_of_their_names(paths: ConfigPaths, tmp_path: Path) -> None:
    put(paths.api_key, "from-file\n")
    put_keys(paths.keys, LAPTOP)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert names(KeyFiles(paths, environ)) == ["api-key", "laptop"]
    put(credentials / "api-key", "from-credential\n", mode=0o400)
    put(credentials / "keys.json", api_keys.write([DESK]), mode=0o400)
    files = KeyFiles(paths, environ)
    assert names(files) == ["api-key", "desk"]
    assert api_keys.digest(b"from-credential") in ring_of(files).keys


def test_every_way_to_change_a_file_is_noticed_at_the_next_glance(paths: ConfigPaths) -> None:
    put(paths.api_key, "one\n")
    files = KeyFiles(paths, {})
    assert names(files) == ["api-key"]
    put_keys(paths.keys, LAPTOP)
    assert names(files) == ["api-key", "laptop"]
    put_keys(paths.keys, LAPTOP, DESK)
    assert names(files) == ["api-key", "desk", "laptop"]
    with paths.keys.open("w") as in_place:
        in_place.write(api_keys.write([DESK]))
    assert names(files) == ["api-key", "desk"]
    paths.api_key.chmod(0o644)
    assert ring_of(files).error is not None
    paths.api_key.chmod(0o640)
    assert ring_of(files).error is None
    paths.keys.unlink()
    assert names(files) == ["api-key"]


def test_files_are_glanced_at_ten_times_a_second_and_whenever_it_matters(
    paths: ConfigPaths,
) -> None:
    put(paths.api_key, "one\n")
    files = KeyFiles(paths, {})
    before = files.current(100.0)
    put_keys(paths.keys, LAPTOP)
    assert files.current(100.09) is before
    assert LAPTOP.digest in files.current(100.11).keys
    paths.keys.unlink()
    assert LAPTOP.digest in files.current(100.19).keys
    assert LAPTOP.digest not in files.current(100.19, at_once=True).keys


def test_files_that_did_not_change_are_not_read_again(
    paths: ConfigPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(paths.api_key, "one\n")
    files = KeyFiles(paths, {})
    first = ring_of(files)
    monkeypatch.setattr("builtins.open", None)
    assert ring_of(files) is first


def test_one_wrong_file_takes_nothing_from_the_keys_of_the_other(
    paths: ConfigPaths, caplog: pytest.LogCaptureFixture
) -> None:
    put(paths.api_key, "one\n")
    put(paths.keys, "{nonsense")
    files = KeyFiles(paths, {})
    with caplog.at_level(logging.ERROR):
        assert names(files) == names(files) == ["api-key"]
    assert len(caplog.records) == 1
    assert "keys.json is not JSON" in str(ring_of(files).error)
    put(paths.api_key, "")
    put_keys(paths.keys, LAPTOP)
    assert names(files) == ["laptop"]
    assert "holds no key" in str(ring_of(files).error)


def test_key_of_the_package_may_be_missing_where_there_are_others(paths: ConfigPaths) -> None:
    files = KeyFiles(paths, {})
    assert "there is no API key file" in str(ring_of(files).error)
    put_keys(paths.keys, LAPTOP)
    assert ring_of(files).error is None
    assert os.listdir(paths.keys.parent) == ["keys.json"]
