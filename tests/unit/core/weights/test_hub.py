# SPDX-License-Identifier: Apache-2.0
"""Every reply of a hub becomes files inside their directory, or one clear error."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.errors import FetchFailed, FetchInterrupted
from sparkd.core.weights import hub_listing
from sparkd.core.weights.hub import RECORD_NAME, Algorithm, Digest, Listing, RepoFile, record
from sparkd.core.weights.hub_refusal import Asked, cleaned, pause_of, refusal

COMMIT, GIT_ID, SHA256 = "a" * 40, "b" * 40, "c" * 64
NOW = 1_700_000_000.0
REQUESTED = Asked(what="org/name at main", host="hub.example", page="https://hub.example/org/name")


def small(path: object = "config.json", **changes: Any) -> dict[str, Any]:
    return {"rfilename": path, "size": 3, "blobId": GIT_ID, **changes}


def large(**changes: Any) -> dict[str, Any]:
    return {**small("m.safetensors"), "lfs": {"sha256": SHA256, "size": 7, **changes}}


def listed(*siblings: object, **changes: object) -> Listing:
    answer = {"id": "org/name", "sha": COMMIT, "siblings": list(siblings), **changes}
    return hub_listing.parse_listing("org/name", json.dumps(answer))


def test_listing_has_paths_sizes_and_checksums() -> None:
    assert listed(small("sub/a b #1.json"), large()).files == (
        RepoFile(path="sub/a b #1.json", size_bytes=3, digest=Digest(Algorithm.GIT_SHA1, GIT_ID)),
        RepoFile(path="m.safetensors", size_bytes=7, digest=Digest(Algorithm.SHA256, SHA256)),
    )


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "x", '"x"', "{}", "[" * 100_000, "1" * 5000, '{"sha": NaN}', "{" * 5000],
    ids=["empty", "null", "list", "x", "text", "object", "deep", "digits", "nan", "open"],
)
def test_reply_that_is_no_listing_is_one_error(text: str) -> None:
    with pytest.raises(FetchFailed) as raised:
        hub_listing.parse_listing("org/name", text)
    assert len(str(raised.value)) < 400
    assert raised.value.hint


@pytest.mark.parametrize("siblings", [None, {}, "x", 5, True, {"a": {}}])
def test_listing_without_a_list_of_files_is_one_error(siblings: object) -> None:
    with pytest.raises(FetchFailed, match="names no files"):
        listed(siblings=siblings)


@pytest.mark.parametrize("commit", [None, "", "main", "A" * 40, "a" * 41, ["a"], f"{'a' * 40}\n"])
def test_listing_without_a_commit_is_one_error(commit: object) -> None:
    with pytest.raises(FetchFailed, match="names no commit"):
        listed(small(), sha=commit)


@pytest.mark.parametrize(
    "sibling",
    [
        *("x", None, 5, [], [small()], {}),
        *(small(size=size) for size in (-1, "3", 1.5, None, True, 10**30, [3])),
        *(large(size=size) for size in (-1, "7", None, 2**63)),
        *(small(blobId=digest) for digest in (None, "x", "b" * 39, GIT_ID.upper(), [GIT_ID])),
        *({**small(), "lfs": lfs} for lfs in ("x", [], 5, True)),
    ],
)
def test_file_that_is_not_as_it_must_be_is_one_error(sibling: object) -> None:
    with pytest.raises(FetchFailed) as raised:
        listed(small("other"), sibling)
    assert len(str(raised.value)) < 500
    assert "Error(" not in str(raised.value)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/passwd", "..", "a/../../b", "a//b", "./a", "a/", "a\0b", "a\nb", "\x1b[2J"),
        *("\ud800", "\u202eab", "x" * 256, "\u20ac" * 100, "/".join("a" * 33)),
        *("/".join(["x" * 200] * 6), RECORD_NAME, None, 5, ["a"]),
    ],
)
def test_name_that_leads_out_or_fits_no_file_system_is_refused(path: object) -> None:
    with pytest.raises(FetchFailed, match="leads out of it"):
        listed(small(path))


def test_names_that_differ_in_case_are_two_files() -> None:
    assert len(listed(small("README.md"), small("readme.md")).files) == 2


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (("a", "a"), "twice"),
        (("a", "a/b"), "a file and as a directory"),
        (("a/b/c/d", "a/b"), "a file and as a directory"),
    ],
)
def test_names_that_clash_are_refused(paths: tuple[str, ...], said: str) -> None:
    with pytest.raises(FetchFailed, match=said):
        listed(*(small(path) for path in paths))


def test_count_and_sum_of_files_are_bounded() -> None:
    with pytest.raises(FetchFailed, match="at most 20000"):
        listed(*({} for _ in range(hub_listing.MAX_FILES + 1)))
    with pytest.raises(FetchFailed, match="at most"):
        listed(*(small(f"f{n}", size=hub_listing.MAX_TOTAL_BYTES // 2) for n in range(3)))


@pytest.mark.parametrize(
    "sibling", [large(sha256=None), {**small(), "lfs": {"size": 7}}, {"rfilename": "a", "size": 1}]
)
def test_hub_without_checksums_is_refused_with_a_way_out(sibling: object) -> None:
    with pytest.raises(FetchFailed, match="tells no checksum") as raised:
        listed(sibling)
    assert raised.value.code == "checksum_missing"
    assert "KeyError" not in str(raised.value)
    assert "hub: https://huggingface.co" in raised.value.hint


def test_renamed_repository_is_named() -> None:
    assert listed(small(), id="new/name").named == "new/name"
    for odd in (None, 5, "../x", "x\ny", "a" * 500):
        assert listed(small(), id=odd).named == "org/name"


def test_record_is_read_back_and_other_texts_are_none() -> None:
    found = listed(small("a/b"), large())
    assert hub_listing.parse_record(record(found)) == found
    for old, new in (("a/b", "../b"), ("git-sha1-", "md5-"), ('"size": 3', '"size": "3"')):
        assert hub_listing.parse_record(record(found).replace(old, new)) is None
    for text in ("", "[" * 100_000, '{"repo": 1}', '{"repo": "a", "commit": "b", "files": [1]}'):
        assert hub_listing.parse_record(text) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["sha", "siblings", "rfilename", "size", "lfs", "blobId", "sha256", "id"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_reply_raises_another_error(value: object) -> None:
    for text in (json.dumps(value), json.dumps({"sha": COMMIT, "siblings": [value]})):
        with contextlib.suppress(FetchFailed):
            hub_listing.parse_listing("org/name", text)
        hub_listing.parse_record(text)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120),
        ({"retry-after": "Tue, 14 Nov 2023 22:18:20 GMT"}, 300),
        ({"retry-after": "Tuesday, 14-Nov-23 22:18:20 GMT"}, 300),
        ({"retry-after": "Tue Nov 14 22:18:20 2023"}, 300),
        ({"retry-after": "Tue, 14 Nov 2000 22:18:20 GMT"}, 0),
        ({"retry-after": "Tue, 99 Nov 2023 22:18:20 GMT"}, None),
        ({"retry-after": "Tue, 14 Xyz 2023 22:18:20 GMT"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "\u0661"}, None),
        ({"retry-after": "9" * 5000}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"api"; r=0; t=55'}, 55),
        ({"ratelimit": '"pages";r=9;t=299, "api";r=0;t=55'}, 55),
        ({"ratelimit": '"api";r=3;t=55'}, 55),
        ({"ratelimit": "limit=500, remaining=0, reset=44"}, 44),
        ({"ratelimit": '"api";r=0;t=' + "9" * 400}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "33"}, 33),
        ({"x-ratelimit-reset": "1700000022"}, 22),
        ({"x-ratelimit-reset": "22"}, 22),
        ({"retry-after": "5", "ratelimit": '"api";r=0;t=290'}, 290),
    ],
)
def test_pause_is_the_one_that_the_hub_asks_for(
    headers: dict[str, str], expected: int | None
) -> None:
    assert pause_of(headers, NOW) == expected


NAMES = ("retry-after", "ratelimit", "x-ratelimit-reset", "x-error-message", "x-error-code")


@given(
    st.integers(100, 999),
    st.dictionaries(st.sampled_from(NAMES), st.text(max_size=60) | st.from_regex(r"[0-9;=rt,]+")),
)
def test_every_refusal_is_one_short_line(status: int, headers: dict[str, str]) -> None:
    error = refusal(status, headers, REQUESTED, NOW)
    assert error.message.isprintable()
    assert len(error.message) < 500
    assert error.hint


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_overload_is_worth_another_try_and_says_until_when(status: int) -> None:
    error = refusal(status, {"ratelimit": '"api";r=0;t=280'}, REQUESTED, NOW)
    assert isinstance(error, FetchInterrupted)
    assert error.retry_after_s == 280
    assert "no request until 2023-11-14 22:18:00 UTC" in error.message


def test_message_of_the_hub_is_shown_cleaned_and_short() -> None:
    said = "Repo  moved\x1b[2J\r\n to \u202eb" + "x" * 5000
    error = refusal(451, {"x-error-message": said}, REQUESTED, NOW)
    assert "Repo moved [2J to b" in error.message
    assert len(error.message) < 300
    assert cleaned("a" * 10_000_000).endswith("…")


@pytest.mark.parametrize(
    ("status", "code", "with_token", "said", "hint"),
    [
        (401, "GatedRepo", False, "does not give access", "accept the terms at https://hub"),
        (403, "", True, "does not give access", "accept the terms"),
        (401, "RepoNotFound", False, "wants a token", "check the spelling"),
        (401, "", True, "refuses the token", "hf-token"),
        (404, "RevisionNotFound", False, "not at hub.example", "check the revision"),
        (404, "EntryNotFound", False, "not at hub.example", "check the file"),
        (404, "RepoNotFound", False, "not at hub.example", "check the repo"),
    ],
)
def test_denial_has_the_hint_that_fits(
    status: int, code: str, with_token: bool, said: str, hint: str
) -> None:
    asked = Asked(what="w", host=REQUESTED.host, page=REQUESTED.page, with_token=with_token)
    error = refusal(status, {"x-error-code": code}, asked, NOW)
    assert said in error.message
    assert hint in error.hint
