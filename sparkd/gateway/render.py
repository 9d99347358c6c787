# SPDX-License-Identifier: Apache-2.0
"""The one renderer of errors: a SparkdError in the body shape of the client's dialect."""

from __future__ import annotations

import json
import logging
import secrets
import time
import traceback
from collections.abc import Mapping
from enum import StrEnum

from sparkd.core.errors import (
    BodyTooLarge,
    Busy,
    Forbidden,
    NotFound,
    RequestError,
    SparkdError,
    TooManyRequests,
    Unauthorized,
)
from sparkd.core.http.routing import is_ollamas

log = logging.getLogger(__name__)


class Shape(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    RESPONSES = "responses"
    """As OpenAI, but in a stream: there each event of the Responses API has a type."""
    OLLAMA = "ollama"
    """One text; its clients show anything else as `[object Object]`."""


def shape_of(path: str, headers: Mapping[str, str]) -> Shape:
    """The form in which a client reads errors, by the path that is Anthropic's or its header."""
    if is_ollamas(path):
        return Shape.OLLAMA
    if path.endswith("/responses"):
        return Shape.RESPONSES
    anthropic = path.endswith(_ANTHROPIC_PATHS) or "anthropic-version" in headers
    return Shape.ANTHROPIC if anthropic else Shape.OPENAI


_ANTHROPIC_PATHS = ("/messages", "/messages/count_tokens")


_OPENAI_TYPES: tuple[tuple[type[SparkdError], str], ...] = (
    (Unauthorized, "authentication_error"),
    (Forbidden, "permission_error"),
    (NotFound, "not_found_error"),
    (TooManyRequests, "rate_limit_error"),
    (RequestError, "invalid_request_error"),
    (Busy, "rate_limit_error"),
    (SparkdError, "server_error"),
)
_ANTHROPIC_TYPES: tuple[tuple[type[SparkdError], str], ...] = (
    (Unauthorized, "authentication_error"),
    (Forbidden, "permission_error"),
    (NotFound, "not_found_error"),
    (BodyTooLarge, "request_too_large"),
    (TooManyRequests, "rate_limit_error"),
    (RequestError, "invalid_request_error"),
    (Busy, "rate_limit_error"),
    (SparkdError, "api_error"),
)


def error_body(error: SparkdError, shape: Shape, *, admin: bool) -> str:
    """The JSON body of an error, for an admin's client or another."""
    message = error.told(admin=admin)
    if shape is Shape.OLLAMA:
        return json.dumps({"error": message})
    if shape is Shape.ANTHROPIC:
        inner: dict[str, object] = {"type": _type(error, _ANTHROPIC_TYPES), "message": message}
        return json.dumps({"type": "error", "error": inner})
    inner = {
        "message": message,
        "type": _type(error, _OPENAI_TYPES),
        "param": error.param,
        "code": error.code,
        "hint": error.hint or None,
        **error.details,
    }
    return json.dumps({"error": inner})


def error_event(error: SparkdError, shape: Shape, *, admin: bool, number: int = 0) -> bytes:
    """The same as a server-sent event, for a stream that has already begun.

    `number` is the sequence number of the event in a stream of the Responses API.
    """
    body = error_body(error, shape, admin=admin)
    if shape is Shape.ANTHROPIC:
        return f"event: error\ndata: {body}\n\n".encode()
    if shape is Shape.RESPONSES:
        return f"event: response.failed\ndata: {_failed_response(body, number)}\n\n".encode()
    return f"data: {body}\n\n".encode()


def _failed_response(body: str, number: int) -> str:
    """The data of `response.failed`.

    Codex reads `response.error`; OpenAI's libraries raise an error for the `error` beside it, also
    where no `response.created` came before.
    """
    error = json.loads(body)["error"]
    failed = {
        "type": "response.failed",
        "sequence_number": number,
        "response": {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "failed",
            "error": {"code": error["code"], "message": error["message"]},
            "output": [],
        },
        "error": error,
    }
    return json.dumps(failed)


def error_headers(error: SparkdError) -> dict[str, str]:
    """The headers of an error's answer, with one that says when or whether to try again.

    OpenAI's and Anthropic's libraries send every 5xx again unless `x-should-retry` is false.
    """
    if error.final:
        return {**error.headers, "x-should-retry": "false"}
    if error.retry_after_s is None:
        return error.headers
    return {**error.headers, "retry-after": str(error.retry_after_s)}


def _type(error: SparkdError, types: tuple[tuple[type[SparkdError], str], ...]) -> str:
    return next(name for kind, name in types if isinstance(error, kind))


def unexpected(exception: BaseException) -> SparkdError:
    """Log an exception that is a defect of sparkd, and return the error for the client."""
    # The value of an exception may quote a request; its kind and place never do.
    frames = "".join(traceback.format_tb(exception.__traceback__))
    log.error("bug: %s while answering a request\n%s", type(exception).__name__, frames)
    return SparkdError(
        f"sparkd failed with an internal {type(exception).__name__}",
        hint="sudo journalctl -u sparkd shows where",
    )
