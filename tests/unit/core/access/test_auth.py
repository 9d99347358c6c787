# SPDX-License-Identifier: Apache-2.0
"""Keys: who may ask what, and that a refusal is always a refusal and never says a key."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.access import api_keys, auth
from sparkd.core.access.api_keys import ApiKey, Keyring, Scope
from sparkd.core.access.auth import Access
from sparkd.core.errors import Forbidden, Misconfigured, Unauthorized

SECRET = "sk-local-right"
OTHER = "sk-local-other"
NOW = api_keys.parse_time("2026-06-01")
anything = st.none() | st.text(st.characters(exclude_categories=()))


def key_of(secret: str, name: str = "laptop") -> ApiKey:
    return ApiKey(name=name, digest=api_keys.digest(secret.encode()))


def ring_of(*keys: ApiKey, error: Misconfigured | None = None) -> Keyring:
    return Keyring(keys={key.digest: key for key in keys}, error=error)


RING = ring_of(key_of(OTHER, "other"), key_of(SECRET))


def identify(
    ring: Keyring, authorization: str | None, x_api_key: str | None, api_key: str | None = None
) -> ApiKey:
    digests = auth.presented(authorization, x_api_key, api_key)
    return auth.identify(ring, auth.best_of(ring, digests, NOW), NOW)


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (f"Bearer {SECRET}", None),
        (f"bearer  {SECRET} ", None),
        (f"BEARER {SECRET}", "wrong"),
        (None, SECRET),
        (None, f" {SECRET} "),
        ("", SECRET),
        ("Basic dXNlcjpwdw==", SECRET),
        ("Bearer ", SECRET),
    ],
)
def test_right_key_is_known_by_either_header(
    authorization: str | None, x_api_key: str | None
) -> None:
    assert identify(RING, authorization, x_api_key).name == "laptop"


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer  ", "Basic abc", SECRET])
@pytest.mark.parametrize("x_api_key", [None, "", "  "])
def test_request_without_a_key_is_told_how_to_send_one(
    authorization: str | None, x_api_key: str | None
) -> None:
    with pytest.raises(Unauthorized, match="carries no API key") as caught:
        identify(RING, authorization, x_api_key)
    assert "Authorization: Bearer" in caught.value.hint


@pytest.mark.parametrize(
    "presented",
    [
        *(SECRET[:-1], SECRET + "x", SECRET.upper(), "x", "\udcff", chr(0xD800), "schlüssel"),
        # The hash itself, which whoever reads keys.json knows, opens nothing.
        api_keys.digest(SECRET.encode()),
    ],
)
def test_wrong_key_is_refused_and_not_repeated(presented: str) -> None:
    for headers in ((f"Bearer {presented}", None), (None, presented)):
        with pytest.raises(Unauthorized, match="not one of this server's") as caught:
            identify(RING, *headers)
        assert presented not in str(caught.value).split()
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        ("Bearer wrong", SECRET, None),
        ("Bearer wrong", "wrong", SECRET),
        ("Bearer wrong", None, f" {SECRET} "),
        (None, None, SECRET),
        ("Basic dXNlcjpwdw==", None, SECRET),
    ],
)
def test_right_key_counts_whatever_the_other_headers_hold(
    headers: tuple[str | None, str | None, str | None],
) -> None:
    assert identify(RING, *headers).name == "laptop"


def test_expired_key_does_not_hide_a_valid_one() -> None:
    expired = replace(key_of(OTHER, "other"), expires_at="2026-01-01T00:00:00Z")
    ring = ring_of(expired, key_of(SECRET))
    assert identify(ring, f"Bearer {OTHER}", SECRET).name == "laptop"
    with pytest.raises(Unauthorized, match="'other' has expired"):
        identify(ring, f"Bearer {OTHER}", "wrong")


@pytest.mark.parametrize(
    ("authorization", "said"),
    [
        ("Bearer", "nothing after 'Bearer'"),
        (f"Bearer Bearer {SECRET}", "'Bearer' twice"),
        (SECRET, "one word, without 'Bearer' before it"),
        ("Basic dXNlcjpwdw==", "Basic instead of 'Bearer'"),
        (f"Key {SECRET}", "another scheme instead of 'Bearer'"),
        (f"{SECRET} x", "another scheme instead of 'Bearer'"),
    ],
)
def test_header_that_holds_no_bearer_key_is_named_with_its_fault(
    authorization: str, said: str
) -> None:
    with pytest.raises(Unauthorized, match=said) as caught:
        auth.presented(authorization, None)
    assert "Authorization header" in caught.value.message
    assert SECRET not in str(caught.value)
    assert "dXNlcjpwdw" not in str(caught.value)


def test_every_401_carries_the_challenge_of_rfc_6750() -> None:
    with pytest.raises(Unauthorized) as caught:
        auth.presented(None)
    assert caught.value.headers["www-authenticate"] == 'Bearer realm="sparkd"'
    with pytest.raises(Unauthorized) as caught:
        identify(RING, "Bearer wrong", None)
    challenge = 'Bearer realm="sparkd", error="invalid_token"'
    assert caught.value.headers["www-authenticate"] == challenge


def test_server_without_keys_lets_nobody_in() -> None:
    with pytest.raises(Unauthorized):
        identify(ring_of(), f"Bearer {SECRET}", None)


def test_where_keys_may_be_missing_an_unknown_one_is_told_why_and_a_known_one_counts() -> None:
    ring = ring_of(key_of(SECRET), error=Misconfigured("keys.json is not JSON"))
    assert identify(ring, f"Bearer {SECRET}", None).name == "laptop"
    with pytest.raises(Misconfigured, match="is not JSON"):
        identify(ring, f"Bearer {OTHER}", None)


def test_expired_key_is_refused_by_name_from_its_moment_on() -> None:
    key = replace(key_of(SECRET), expires_at="2026-06-01T00:00:00Z")
    ring, digest = ring_of(key), key.digest
    assert auth.identify(ring, digest, NOW - 1) is key
    with pytest.raises(Unauthorized, match="'laptop' has expired") as caught:
        auth.identify(ring, digest, NOW)
    assert caught.value.code == "expired_api_key"


@given(st.lists(st.text(st.characters(codec="ascii"))), anything, anything)
def test_whatever_is_sent_the_answer_is_a_key_that_was_sent_or_unauthorized(
    secrets: list[str], authorization: str | None, x_api_key: str | None
) -> None:
    ring = ring_of(*(key_of(secret) for secret in secrets))
    with contextlib.suppress(Unauthorized):
        identify(ring, authorization, x_api_key)
        assert {(authorization or "").strip()[7:].strip(), (x_api_key or "").strip()} & set(secrets)


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ((Scope.INFERENCE,), {Access.OPEN, Access.ANY, Access.INFERENCE}),
        ((Scope.ADMIN,), {Access.OPEN, Access.ANY, Access.ADMIN}),
        (tuple(Scope), set(Access)),
    ],
)
def test_scope_opens_what_it_is_for_and_a_refusal_names_the_missing_one(
    scopes: tuple[Scope, ...], allowed: set[Access]
) -> None:
    key = replace(key_of(SECRET), scopes=scopes)
    for access in Access:
        if access in allowed:
            auth.require(key, access)
        else:
            with pytest.raises(Forbidden, match=f"lacks the scope {access}") as caught:
                auth.require(key, access)
            assert f"--scope {access}" in caught.value.hint
            challenge = caught.value.headers["www-authenticate"]
            assert f'error="insufficient_scope", scope="{access}"' in challenge


def test_key_of_some_models_may_use_no_other() -> None:
    key = replace(key_of(SECRET), models=("small",))
    auth.require_model(key, "small")
    with pytest.raises(Forbidden, match="'laptop' may not use model 'large'") as caught:
        auth.require_model(key, "large")
    assert (caught.value.code, caught.value.param) == ("model_forbidden", "model")
