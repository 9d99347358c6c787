# SPDX-License-Identifier: Apache-2.0
"""Errors of engines: clients of Anthropic's API get its words, and no body breaks the reading."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.engine import error_translation
from sparkd.gateway.render import Shape, error_body, error_headers

PASSED = (
    "You passed 9001 input tokens and requested 1000 output tokens. However, the model's context "
    "length is only 10000 tokens, resulting in a maximum input length of 9000 tokens. Please reduce"
)
OVERFLOWS = {
    PASSED: (9001, 9000),
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens "
    "(8500 in the messages, 500 in the completion).": (9000, 8192),
    "This model's maximum context length is 8192 tokens. However, your request has 9000 input "
    "tokens.": (9000, 8192),
    "this model's maximum context length is 8192 tokens, but the prompt contains 9000 input "
    "tokens": (
        9000,
        8192,
    ),
    "The decoder prompt (length 9000) is longer than the maximum model length of 8192. Make sure": (
        9000,
        8192,
    ),
    "Input length (9000) exceeds model's maximum context length (8192).": (9000, 8192),
    "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it": (
        9000,
        8192,
    ),
}


def body(message: object, **more: object) -> bytes:
    return json.dumps({"error": {"message": message, "type": "BadRequestError", **more}}).encode()


@pytest.mark.parametrize("message", OVERFLOWS)
def test_overflow_is_told_in_the_words_on_which_clients_of_anthropic_act(message: str) -> None:
    error = error_translation.read(
        400, body(message, code=400, param="input_tokens"), anthropic=True
    )
    n, maximum = OVERFLOWS[message]
    assert json.loads(error_body(error, Shape.ANTHROPIC, admin=False)) == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": f"prompt is too long: {n} tokens > {maximum} maximum",
        },
    }
    assert error_headers(error)["x-should-retry"] == "false"
    assert error_translation.read(400, body(message), anthropic=False).message == message


@pytest.mark.parametrize(
    "message",
    [
        "'max_tokens' is too large: 9000. This model's maximum context length is 8192 tokens and "
        "your request has 100 input tokens (9000 > 8192 - 100).",
        "top_p must be in (0, 1], got 2.0.",
    ],
)
def test_other_errors_keep_their_words(message: str) -> None:
    assert error_translation.read(400, body(message), anthropic=True).message == message


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((400, "invalid_request_error"), (404, "not_found_error"), (413, "request_too_large")),
        *((422, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error")),
    ],
)
def test_type_follows_from_the_status(status: int, kind: str) -> None:
    error = error_translation.read(status, body("x"), anthropic=True)
    assert error.http_status == status
    assert json.loads(error_body(error, Shape.ANTHROPIC, admin=False))["error"]["type"] == kind


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the engine answered 500"),
        (b"Internal Server Error\n", "Internal Server Error"),
        (b'{"object": "error", "message": "old form"}', "old form"),
        (b'{"type": "error", "error": {"type": "BadRequestError", "message": "m"}}', "m"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"error": "text"}', "text"),
        (b'{"error": {"message": {"a": 1}}}', '{"a": 1}'),
        (b"[1, 2]", "[1, 2]"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"message": "\\ud800"}', "?"),
        (b"[" * 60_000, ("[" * 2000)),
        (b"1" * 5000, "1" * 2000),
    ],
)
def test_body_of_any_form_has_a_message(raw: bytes, message: str) -> None:
    assert error_translation.read(500, raw, anthropic=True).message == message


def test_engine_that_ended_itself_is_not_asked_again() -> None:
    error = error_translation.read(
        500, body("EngineCore encountered an issue. See stack trace"), anthropic=True
    )
    assert error_headers(error)["x-should-retry"] == "false"
    assert "x-should-retry" not in error_headers(
        error_translation.read(500, body("x"), anthropic=True)
    )


@given(st.integers(400, 599), st.binary(max_size=2000) | st.text().map(body))
def test_any_bytes_are_an_error_that_can_be_shown(status: int, raw: bytes) -> None:
    error = error_translation.read(status, raw, anthropic=True)
    assert error.message
    for shape in Shape:
        assert json.loads(error_body(error, shape, admin=True))
