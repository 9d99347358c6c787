# SPDX-License-Identifier: Apache-2.0
"""Keys: who may ask, and that a refusal is always a refusal and never says a key."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core import auth
from sparkd.core.errors import Unauthorized

KEY = "sk-local-right"
OTHER = "sk-local-other"
anything = st.none() | st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (f"Bearer {KEY}", None),
        (f"bearer  {KEY} ", None),
        (f"BEARER {KEY}", "wrong"),
        (None, KEY),
        (None, f" {KEY} "),
        ("", KEY),
        ("Basic dXNlcjpwdw==", KEY),
        ("Bearer ", KEY),
    ],
)
def test_right_key_is_let_in_by_either_header(
    authorization: str | None, x_api_key: str | None
) -> None:
    auth.check([OTHER, KEY], authorization, x_api_key)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer  ", "Basic abc", KEY])
@pytest.mark.parametrize("x_api_key", [None, "", "  "])
def test_request_without_a_key_is_told_how_to_send_one(
    authorization: str | None, x_api_key: str | None
) -> None:
    with pytest.raises(Unauthorized, match="carries no API key") as caught:
        auth.check([KEY], authorization, x_api_key)
    assert "Authorization: Bearer" in caught.value.hint


@pytest.mark.parametrize(
    "presented", [KEY[:-1], KEY + "x", KEY.upper(), OTHER, "x", "\udcff", chr(0xD800), "schlüssel"]
)
def test_wrong_key_is_refused_and_not_repeated(presented: str) -> None:
    for headers in ((f"Bearer {presented}", None), (None, presented)):
        with pytest.raises(Unauthorized, match="not one of this server's") as caught:
            auth.check([KEY], *headers)
        assert presented not in str(caught.value).split()
        assert KEY not in str(caught.value)


def test_wrong_bearer_key_is_not_saved_by_the_other_header() -> None:
    with pytest.raises(Unauthorized):
        auth.check([KEY], f"Bearer {OTHER}", KEY)


def test_server_without_keys_lets_nobody_in() -> None:
    with pytest.raises(Unauthorized):
        auth.check([], f"Bearer {KEY}", None)


@given(st.lists(st.text(st.characters(codec="ascii"))), anything, anything)
def test_whatever_is_sent_the_answer_is_yes_or_unauthorized(
    keys: list[str], authorization: str | None, x_api_key: str | None
) -> None:
    with contextlib.suppress(Unauthorized):
        auth.check(keys, authorization, x_api_key)
        assert {(authorization or "").strip()[7:].strip(), (x_api_key or "").strip()} & set(keys)
