# SPDX-License-Identifier: Apache-2.0
"""The format of keys.json: what was written is read again, what is wrong is told with its place."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.access import api_keys
from sparkd.core.access.api_keys import ApiKey, Scope
from sparkd.core.errors import Misconfigured, RequestError

ENTRY: dict[str, Any] = {"name": "laptop", "sha256": "a" * 64, "scopes": ["inference"]}

limits = st.none() | st.integers(1, api_keys.LIMIT_MOST)
keys = st.builds(
    ApiKey,
    name=st.text("aZ09._-", max_size=20).map("k".__add__),
    digest=st.binary(min_size=1, max_size=4).map(api_keys.digest),
    scopes=st.sampled_from([(Scope.INFERENCE,), (Scope.ADMIN,), tuple(Scope)]),
    models=st.lists(st.text("aZ*?/-", min_size=1, max_size=9), max_size=3).map(tuple),
    concurrent=limits,
    per_minute=limits,
    created_at=st.sampled_from([None, "2026-01-31T12:00:00Z"]),
    expires_at=st.sampled_from([None, "2027-01-31"]),
)
unique_keys = st.lists(keys, max_size=4, unique_by=(lambda key: key.name, lambda key: key.digest))


@given(unique_keys)
def test_keys_that_were_written_are_read_again(ring: list[ApiKey]) -> None:
    assert api_keys.parse(api_keys.write(ring), "keys.json") == tuple(ring)


def test_secret_is_kept_as_its_sha256_only() -> None:
    text = api_keys.write([ApiKey(name="x", digest=api_keys.digest(b"sk-sparkd-planted"))])
    assert "planted" not in text
    assert json.loads(text)["keys"][0]["sha256"] == (
        "26ad0d5147f87fe629ca1abcc35a685476a56bc5881d16e6291d590714657619"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "two words"}, "is not a valid key name"),
        ({"name": "api-key"}, "is the key that the package made"),
        ({"name": None}, "'name' must be a string"),
        ({"sha256": "A" * 64}, "sha256 is not 64 hex digits"),
        ({"sha256": 1}, "'sha256' must be a string"),
        ({"scopes": ["root"]}, "'root' is not a valid Scope"),
        ({"scopes": []}, "scopes are missing"),
        ({"scopes": "admin"}, "scopes is not a list"),
        ({"models": [1]}, "models is not a list of strings"),
        ({"models": ["a b"]}, "is not a model id"),
        ({"concurrent": 0}, "0 is out of range"),
        ({"concurrent": True}, "concurrent is not a whole number"),
        ({"per_minute": 1.5}, "per_minute is not a whole number"),
        ({"expires_at": "soon"}, "'soon' is not a date"),
        ({"secret": "x"}, "'secret' is an unknown field"),
    ],
)
def test_wrong_key_is_told_with_its_number(change: dict[str, Any], message: str) -> None:
    text = json.dumps({"keys": [ENTRY, {**ENTRY, "name": "b", "sha256": "b" * 64, **change}]})
    with pytest.raises(Misconfigured) as caught:
        api_keys.parse(text, "keys.json")
    assert caught.value.message.startswith("keys.json: key 2: ")
    assert message in caught.value.message


@pytest.mark.parametrize("field", ["name", "sha256"])
def test_name_or_hash_that_stands_twice_is_refused(field: str) -> None:
    other = {**ENTRY, "name": "b", "sha256": "b" * 64, field: ENTRY[field]}
    with pytest.raises(Misconfigured, match=r"key 2: its .* is in the file twice"):
        api_keys.parse(json.dumps({"keys": [ENTRY, other]}), "keys.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"keys": {}}', '{"keys": [], "x": 1}'])
def test_text_that_is_no_list_of_keys_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured):
        api_keys.parse(text, "keys.json")


@given(st.text())
def test_any_text_is_keys_or_misconfigured(text: str) -> None:
    with contextlib.suppress(Misconfigured):
        assert all(isinstance(key, ApiKey) for key in api_keys.parse(text, "keys.json"))


def test_patterns_of_models_match_ids_as_a_whole_and_in_their_case() -> None:
    key = ApiKey(name="x", digest="", models=("qwen*", "org/small"))
    assert key.may_use("qwen3-32b")
    assert key.may_use("org/small")
    assert not any(map(key.may_use, ["Qwen3", "my-qwen", "org/small-2", "org", ""]))
    assert ApiKey(name="y", digest="").may_use("whatever")


def test_date_is_its_first_moment_in_utc() -> None:
    assert api_keys.parse_time("2027-01-31") == api_keys.parse_time("2027-01-31T00:00:00Z")
    assert api_keys.parse_time("2027-01-31T01:00:00+01:00") == api_keys.parse_time("2027-01-31")
    with pytest.raises(RequestError, match="not a date"):
        api_keys.parse_time("31.1.2027")
