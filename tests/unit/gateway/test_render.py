# SPDX-License-Identifier: Apache-2.0
"""Errors in the form of the client that gets them: by its path, or by the header of its library."""

from __future__ import annotations

import json

import pytest

from sparkd.core.errors import (
    BodyTooLarge,
    Busy,
    Forbidden,
    Misconfigured,
    NotFound,
    RequestError,
    SparkdError,
    TooManyRequests,
    Unauthorized,
    UpstreamLost,
)
from sparkd.core.http.routing import unknown_path
from sparkd.core.observed import LockHolder
from sparkd.core.scheduling.policy import gpu_held
from sparkd.gateway.render import Shape, error_body, error_event, error_headers, shape_of

VERSION = {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("path", "headers", "shape"),
    [
        ("/v1/messages", {}, Shape.ANTHROPIC),
        ("/v1/messages/count_tokens", {}, Shape.ANTHROPIC),
        ("/v1/org/model/messages", {}, Shape.ANTHROPIC),
        ("/v1/chat/completions", {}, Shape.OPENAI),
        ("/v1/messages/x", {}, Shape.OPENAI),
        ("/v1/models", VERSION, Shape.ANTHROPIC),
        ("/v1/responses", {}, Shape.RESPONSES),
        ("/api/tags", {}, Shape.OLLAMA),
        ("/v1/org/model/responses", VERSION, Shape.RESPONSES),
    ],
)
def test_form_follows_from_the_path_or_the_header(
    path: str, headers: dict[str, str], shape: Shape
) -> None:
    assert shape_of(path, headers) is shape


@pytest.mark.parametrize(
    ("error", "openai", "anthropic"),
    [
        (RequestError("x"), "invalid_request_error", "invalid_request_error"),
        (Unauthorized("x"), "authentication_error", "authentication_error"),
        (Forbidden("x"), "permission_error", "permission_error"),
        (NotFound("x"), "not_found_error", "not_found_error"),
        (BodyTooLarge("x"), "invalid_request_error", "request_too_large"),
        (TooManyRequests("x"), "rate_limit_error", "rate_limit_error"),
        (Busy("x"), "rate_limit_error", "rate_limit_error"),
        (Misconfigured("x"), "server_error", "api_error"),
        (UpstreamLost("x"), "server_error", "api_error"),
        (SparkdError("x"), "server_error", "api_error"),
    ],
)
def test_each_error_has_the_type_that_its_library_knows(
    error: SparkdError, openai: str, anthropic: str
) -> None:
    assert json.loads(error_body(error, Shape.OPENAI, admin=False))["error"]["type"] == openai
    body = json.loads(error_body(error, Shape.ANTHROPIC, admin=False))
    assert body == {"type": "error", "error": {"type": anthropic, "message": "x"}}


def test_event_of_anthropic_has_a_name_and_that_of_openai_has_none() -> None:
    error = Busy("x", retry_after_s=7)
    assert error_event(error, Shape.ANTHROPIC, admin=False).startswith(b"event: error\ndata: {")
    assert error_event(error, Shape.OPENAI, admin=False).startswith(b"data: {")
    assert error_headers(error)["retry-after"] == "7"


def test_client_of_ollama_gets_its_error_as_one_text() -> None:
    body = json.loads(error_body(unknown_path("/api/chat"), Shape.OLLAMA, admin=False))
    assert list(body) == ["error"]
    assert "does not speak Ollama's API" in body["error"]
    assert "/v1" in body["error"]


def test_late_error_of_a_response_is_the_event_that_its_clients_read() -> None:
    sent = error_event(Busy("x", hint="wait"), Shape.RESPONSES, admin=False).decode()
    name, data, *rest = sent.split("\n")
    assert (name, rest) == ("event: response.failed", ["", ""])
    failed = json.loads(data.removeprefix("data: "))
    response = failed["response"]
    assert failed["type"] == "response.failed"
    assert isinstance(failed["sequence_number"], int)
    assert response["id"].startswith("resp_")
    assert (response["object"], response["status"]) == ("response", "failed")
    assert response["error"] == {"code": "busy", "message": "x (wait)"}
    # OpenAI's libraries raise for this one, whatever came before.
    assert failed["error"]["message"] == "x (wait)"
    whole = error_body(Busy("x"), Shape.RESPONSES, admin=False)
    assert whole == error_body(Busy("x"), Shape.OPENAI, admin=False)


@pytest.mark.parametrize("error", [NotFound("x"), Misconfigured("x"), UpstreamLost("x")])
def test_final_error_tells_clients_not_to_try_again(error: SparkdError) -> None:
    error.headers["allow"], error.retry_after_s = "GET", 7
    assert error_headers(error) == {"allow": "GET", "x-should-retry": "false"}


@pytest.mark.parametrize("error", [Busy("x"), TooManyRequests("x"), SparkdError("x")])
def test_error_that_may_pass_leaves_clients_to_try_again(error: SparkdError) -> None:
    assert "x-should-retry" not in error_headers(error)


@pytest.mark.parametrize("shape", Shape)
def test_program_that_holds_the_gpu_is_named_to_admins_only(shape: Shape) -> None:
    error = gpu_held("m", LockHolder(pid=4242, command="train --token abc", exclusive=True))
    for said in (
        error_body(error, shape, admin=True),
        error_event(error, shape, admin=True).decode(),
    ):
        assert "pid 4242, 'train --token abc'" in said
    for said in (
        error_body(error, shape, admin=False),
        error_event(error, shape, admin=False).decode(),
    ):
        assert "'m' cannot start: the GPU is held by a program outside sparkd" in said
        assert "pid 4242" not in said
        assert "train" not in said
