# SPDX-License-Identifier: Apache-2.0
"""Paths as clients write them: each has one canonical form, and no other path is opened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.errors import NotFound
from sparkd.core.http import routing
from sparkd.core.http.paths import canonical, canonical_path

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "path",
    [
        *("/v1//chat/completions", "//v1/chat/completions", "/v1/chat/completions/"),
        *("/v1/v1/chat/completions", "/v1/v1/v1//chat//completions///", "/chat/completions"),
        *(
            "/openai/v1/chat/completions",
            "/openai/chat/completions",
            "//openai//v1/v1/chat/completions",
        ),
    ],
)
def test_each_way_to_write_the_path_is_the_same_path(path: str) -> None:
    assert canonical_path(path) == CHAT


@pytest.mark.parametrize("name", sorted(routing.OPERATIONS))
def test_every_operation_is_found_without_its_version(name: str) -> None:
    assert canonical_path(f"/{name}") == f"/v1/{name}"
    assert canonical_path(f"/v1/m/{name}/") == f"/v1/m/{name}"
    assert canonical_path(f"/v1/m/v1/{name}") == f"/v1/m/{name}"
    assert canonical_path(f"/openai/deployments/m/{name}") == f"/v1/m/{name}"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/models", "/v1/models"),
        ("/v1/v1/models/", "/v1/models"),
        ("/models/org/name", "/v1/models/org/name"),
        ("/health", "/healthz"),
        ("/health/", "/healthz"),
        ("/v2/rerank", "/v1/rerank"),
        ("/anthropic/v1/messages", "/v1/messages"),
        ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/m/v1/messages", "/v1/m/messages"),
        ("/responses/resp_1", "/v1/responses/resp_1"),
        ("/", "/"),
        ("//", "/"),
    ],
)
def test_names_of_other_servers_mean_ours(path: str, meant: str) -> None:
    assert canonical_path(path) == meant


@pytest.mark.parametrize(
    "path",
    [
        *("/models/m/load", "/models/org/m/unload", "/models/m/pin", "/models/m/unpin"),
        *("/status", "/v1", "/v1/models", "/v1/org/name/completions", "/healthz", "/api/chat"),
        # Nothing is decoded and no dots are resolved.
        *("/v1/../status", "/v1/./chat/completions", "/%2Fchat/completions", "/v1%2Fmodels"),
        *("/v1/sleep", "/sleep", "/openai/sleep", "/v1x/chat/completions", "/V1/models"),
    ],
)
def test_every_other_path_stays(path: str) -> None:
    assert canonical_path(path) == path


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        (b"/v1//chat/completions/?a=//b/", b"/v1/chat/completions?a=//b/"),
        (b"http://h:1//models?x", b"http://h:1/v1/models?x"),
        (b"/openai/deployments/m/embeddings?api-version=1", b"/v1/m/embeddings?api-version=1"),
        (b"*", b"*"),
        (b"http://", b"http://"),
        (b"http://h", b"http://h"),
        (b"/\xff//x", b"/\xff/x"),
    ],
)
def test_query_and_origin_of_a_target_stay(target: bytes, meant: bytes) -> None:
    assert canonical(target) == meant


@given(
    st.lists(
        st.sampled_from(["v1", "models", "chat", "completions", "openai", "m", "..", "", "load"])
    )
)
def test_canonical_form_of_a_canonical_path_is_itself(segments: list[str]) -> None:
    once = canonical_path("/" + "/".join(segments))
    assert canonical_path(once) == once


@given(st.text())
def test_only_the_allow_list_is_ever_reached(text: str) -> None:
    path = canonical_path("/" + text)
    if path == "/" + text or not path.startswith("/v1/"):
        return
    try:
        found = routing.route(path)
    except NotFound:
        return
    assert found.operation is routing.OPERATIONS[found.name]
