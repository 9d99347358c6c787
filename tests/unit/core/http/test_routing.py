# SPDX-License-Identifier: Apache-2.0
"""Routing: which paths exist, which model is meant, and how a wrong body is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.errors import Disabled, Misconfigured, NotFound, RequestError
from sparkd.core.http import routing
from sparkd.core.model import Config, Dialect, ModelSpec, Problem, Settings, Status
from sparkd.core.rewriting import request_body as bodies

MODEL = ModelSpec(model_id="m", image="i", dialects=(Dialect.CHAT,))
PROBLEM = Problem(source="models.d/x.yaml", line=3, path="models.bad", message="no image is given")
CONFIG = Config(models={"m": MODEL}, broken={"bad": (PROBLEM,)}, problems=(PROBLEM,))
OPERATIONS = sorted(routing.OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_path_without_a_model_leaves_it_to_the_body(operation: str) -> None:
    found = routing.route(f"/v1/{operation}")
    assert (found.name, found.model_id) == (operation, None)
    assert found.operation is routing.OPERATIONS[operation]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("segment", "model_id"),
    [("m", "m"), ("org/name", "org/name"), ("org%2Fname", "org/name"), ("v1", "v1"), ("", "")],
)
def test_path_may_name_the_model(operation: str, segment: str, model_id: str) -> None:
    found = routing.route(f"/v1/{segment}/{operation}")
    assert (found.name, found.model_id) == (operation, model_id)
    assert found.operation is routing.OPERATIONS[operation]


def test_chat_completions_is_never_taken_for_completions_of_a_model_named_chat() -> None:
    found = routing.route("/v1/m/chat/completions")
    assert (found.operation.dialect, found.model_id) == (Dialect.CHAT, "m")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/",
        "/v1/chat",
        "/v1/m/chat",
        "/v1/completions/",
        "/v1/load_lora_adapter",
        "/v1/m/sleep",
        "/v1/m/collective_rpc",
        "/v1/xcompletions",
        "/v1/chat/completions/../../sleep",
    ],
)
def test_every_other_path_is_unknown(path: str) -> None:
    with pytest.raises(NotFound) as caught:
        routing.route(path)
    assert caught.value.code == "unknown_path"
    assert repr(path) in caught.value.message


@given(st.text())
def test_only_listed_operations_ever_reach_an_engine(rest: str) -> None:
    try:
        found = routing.route(f"/v1/{rest}")
    except NotFound:
        return
    assert found.operation is routing.OPERATIONS[found.name]


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"no", b'{"model": }', b"\xff\xfe", b'{"a": "\xff"}', b'{"a": 1}{}'),
        *(b'{"a": NaN}', b'{"a": [-Infinity]}', b'{"a": "\xed\xa0\x80"}'),
        *(b"[" * 100_000, b"1" * 5000),
    ],
)
def test_body_that_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError, match="not JSON") as caught:
        bodies.parse_body(raw)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("raw", [b"[]", b'"m"', b"1", b"null", b"true"])
def test_body_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError, match="not an object"):
        bodies.parse_body(raw)


@given(st.binary())
def test_any_bytes_are_an_object_or_refused_in_one_line_without_their_content(raw: bytes) -> None:
    refusal = ""
    try:
        assert isinstance(bodies.parse_body(raw), dict)
    except RequestError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 200


def test_refusal_of_a_body_does_not_quote_it() -> None:
    with pytest.raises(RequestError) as caught:
        bodies.parse_body(b'{"messages": "planted-words')
    assert "planted" not in str(caught.value)


def test_body_names_the_model_where_the_path_does_not() -> None:
    assert routing.model_of(routing.route("/v1/completions"), {"model": "m"}) == "m"
    assert routing.model_of(routing.route("/v1/p/completions"), {"model": "m"}) == "p"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, "has none"),
        ({"model": None}, "has null"),
        ({"model": ""}, 'has ""'),
        ({"model": 7}, "has 7"),
        ({"model": ["m"]}, 'has ["m"]'),
        ({"model": {"long": "x" * 1000}}, 'has {"long": "xxx'),
    ],
)
def test_body_without_a_model_is_told_what_it_has(body: dict[str, Any], found: str) -> None:
    with pytest.raises(RequestError) as caught:
        routing.model_of(routing.route("/v1/completions"), body)
    assert found in caught.value.message
    assert len(caught.value.message) < 200
    assert (caught.value.code, caught.value.param) == ("model_missing", "model")


def usable(config: Config, model_id: str, dialect: Dialect) -> ModelSpec:
    """The model of this id, if it does what is asked."""
    spec = routing.lookup(config, model_id)
    routing.check_use(spec, dialect)
    return spec


def test_configured_model_is_found() -> None:
    assert usable(CONFIG, "m", Dialect.CHAT) is MODEL


@pytest.mark.parametrize(
    "model_id", ["x", "M", "", "constructor", "__proto__", "__class__", "\ud800", "x" * 10_000]
)
def test_unknown_model_is_not_found_whatever_its_name(model_id: str) -> None:
    with pytest.raises(NotFound) as caught:
        usable(CONFIG, model_id, Dialect.CHAT)
    assert caught.value.code == "model_not_found"
    assert len(caught.value.message.encode()) < 300


def test_model_whose_entry_is_wrong_is_refused_with_the_place() -> None:
    with pytest.raises(Misconfigured) as caught:
        usable(CONFIG, "bad", Dialect.CHAT)
    assert str(PROBLEM) in caught.value.message
    assert caught.value.code == "model_misconfigured"


def test_model_that_lacks_a_dialect_says_which_it_has() -> None:
    with pytest.raises(RequestError, match="'m' does not do embeddings") as caught:
        usable(CONFIG, "m", Dialect.EMBEDDINGS)
    assert caught.value.hint == "it does chat"


def test_body_that_names_the_model_is_forwarded_as_it_came() -> None:
    raw = b' {"model":"m", "x": 1.0e3,\n"y":"\\u00e4", "x": 1e400} '
    assert bodies.upstream_body(raw, bodies.parse_body(raw), "m") is raw


@pytest.mark.parametrize("body", [{"a": "ä\ud800"}, {"model": "other", "a": [1, None]}])
def test_body_of_a_path_that_names_the_model_gets_that_name(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    assert json.loads(bodies.upstream_body(raw, body, "m")) == {**body, "model": "m"}


def test_body_of_a_path_that_names_the_model_keeps_every_other_byte() -> None:
    raw = b'{"model":"other", "seed":1.0e3, "messages":[ "\\u00e4" ]}'
    sent = bodies.upstream_body(raw, bodies.parse_body(raw), "m")
    assert sent == b'{"model":"m","seed":1.0e3,"messages":[ "\\u00e4" ]}'


def test_rewritten_body_is_sent_under_the_name_of_the_model() -> None:
    raw = b'{"seed":1.0e3}'
    body = bodies.parse_body(raw)
    assert bodies.upstream_body(raw, body, "m", {**body, "a": 1}) == (
        b'{"seed":1.0e3,"a":1,"model":"m"}'
    )
    named = bodies.parse_body(b'{"model":"m"}')
    assert bodies.upstream_body(raw, named, "m", named) is raw


def test_rules_of_rewriting_apply_to_all_but_texts_and_tokens_as_they_are() -> None:
    plain = {name for name, operation in routing.OPERATIONS.items() if not operation.rewritten}
    assert plain == {"tokenize", "detokenize", "audio/transcriptions", "audio/translations"}


def test_disabled_model_is_refused_with_its_reason_as_something_not_to_be_tried_again() -> None:
    spec = replace(MODEL, status=Status.DISABLED, reason="its output is garbage")
    config = Config(models={"m": spec})
    with pytest.raises(Disabled) as refused:
        usable(config, "m", Dialect.CHAT)
    assert refused.value.message == "model 'm' is disabled: its output is garbage"
    assert (refused.value.http_status, refused.value.retry_after_s) == (404, None)
    assert routing.lookup(config, "m") is spec


@pytest.mark.parametrize("status", [one for one in Status if one is not Status.DISABLED])
def test_every_other_status_is_served(status: Status) -> None:
    config = Config(models={"m": replace(MODEL, status=status)})
    assert usable(config, "m", Dialect.CHAT).status is status


def test_model_is_found_by_each_of_its_names() -> None:
    config = replace(CONFIG, aliases={"short": "m", "org/m": "m"})
    assert routing.lookup(config, "short") is routing.lookup(config, "org/m") is MODEL


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"default_model": "m"}, "auto"),
        ({"default_model": "m"}, "default"),
        ({"default_model": "short"}, "auto"),
        ({"small_model": "m"}, "small"),
    ],
)
def test_name_without_a_model_means_what_the_setting_says(
    settings: dict[str, str], name: str
) -> None:
    config = replace(CONFIG, aliases={"short": "m"}, settings=Settings(**settings))
    assert routing.lookup(config, name) is MODEL
    own = replace(MODEL, model_id=name)
    assert routing.lookup(replace(config, models={**config.models, name: own}), name) is own


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "sparkd.yaml has no default_model"), ({"default_model": "gone"}, "is 'gone'")],
)
def test_default_that_is_not_there_says_which_setting_to_set(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(NotFound, match=message) as caught:
        routing.lookup(replace(CONFIG, settings=Settings(**settings)), "auto")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "set default_model" in caught.value.hint


def test_forms_are_what_audio_is_sent_as() -> None:
    forms = {name for name, operation in routing.OPERATIONS.items() if operation.form}
    assert forms == {"audio/transcriptions", "audio/translations"}


def test_name_that_matches_a_pattern_means_its_model_and_the_longest_pattern_counts() -> None:
    config = Config(
        models={"m": MODEL, "n": replace(MODEL, model_id="n")},
        aliases={"claude-*": "m", "claude-*haiku*": "n", "claude-9": "m"},
    )
    assert routing.lookup(config, "claude-opus-5").model_id == "m"
    assert routing.lookup(config, "claude-3-haiku-2024").model_id == "n"
    assert routing.lookup(config, "claude-9").model_id == "m"
    with pytest.raises(NotFound):
        routing.lookup(config, "gpt-claude-")


def test_pattern_does_not_take_the_names_of_settings() -> None:
    config = Config(models={"m": MODEL}, aliases={"*": "m"})
    with pytest.raises(NotFound, match="has no default_model"):
        routing.lookup(config, "auto")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/x/embeddings", "/v1/embeddings"),
        ("/nonsense", "under /v1/"),
    ],
)
def test_refusal_of_a_path_shows_the_right_one(path: str, shown: str) -> None:
    error = routing.unknown_path(path)
    assert error.code == "unknown_path"
    assert shown in error.hint


@pytest.mark.parametrize("path", ["/v1/responses/resp_1", "/v1/responses/resp_1/cancel"])
def test_stored_responses_are_refused_in_plain_words(path: str) -> None:
    with pytest.raises(NotFound, match="does not store responses") as caught:
        routing.route(path)
    assert caught.value.code == "responses_not_stored"


def test_response_is_continued_only_where_the_engine_stores_responses() -> None:
    responses = routing.route("/v1/responses")
    body = {"model": "m", "previous_response_id": "resp_1"}
    with pytest.raises(NotFound) as caught:
        routing.check_stateless(responses, body, MODEL)
    assert caught.value.param == "previous_response_id"
    storing = replace(MODEL, env=(("VLLM_ENABLE_RESPONSES_API_STORE", "1"),))
    routing.check_stateless(responses, body, storing)
    routing.check_stateless(responses, {"previous_response_id": None}, MODEL)
    routing.check_stateless(routing.route("/v1/chat/completions"), body, MODEL)
