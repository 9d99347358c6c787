# SPDX-License-Identifier: Apache-2.0
"""The description of the HTTP API in OpenAPI 3.1, made from the routes that the gateway has.

Owns what is said about a route, and which answers it may give; the routes themselves are the
router's, and the inference paths those of `routing.OPERATIONS`. What stands in the bodies of
inference requests and answers is the engine's, so no more is promised of it than is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sparkd.core.http.routing import OPERATIONS

Json = dict[str, Any]

ERRORS = {
    400: "The request is wrong.",
    401: "The API key is missing or wrong.",
    403: "The key may not do this.",
    404: "No such model or path; or the catalog has the model switched off.",
    413: "The body is over `body_limit`, or has too many values.",
    415: "The body is compressed.",
    429: "Another model is in use and the wait was too long, or the key asks more than it may.",
    431: "The head has more than 64 KiB or 256 headers.",
    500: "The host refused something, or sparkd has a defect.",
    502: "The model did not start, or broke off.",
    503: "Not now: the GPU is held, memory is short, or the configuration does not hold.",
    504: "The model was not ready within its `load_timeout`.",
}
"""Every status that an error of sparkd can have, and what it means."""

_OF_EVERY_KEY = (400, 401, 403, 429, 500, 503)
_OF_A_MODEL = (404,)
_OF_A_CHANGE = (502, 504)
_OF_A_BODY = (413, 415)
_STREAMING = frozenset({"chat/completions", "completions", "responses", "messages"})
_OF_THE_ENGINE = "The model's server refused or failed; these are its own words."
_REST = "{rest}"
"""Where the router has one route for all inference paths."""
_ABOUT = """\
One address for every model of the catalog: a request starts the model that it names, waits for it
and passes the answer on. Bodies are those of OpenAI's and Anthropic's APIs as the model's server
understands them. A streaming request that waits gets keep-alives, which commit its status to 200. A
later failure becomes an error event. Errors have Anthropic's form
for requests with an `anthropic-version` header and for its paths, else OpenAI's. `x-request-id` is
taken from the request, if it is a plain word, and is on every answer.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One route of the router: its path with `{parameters}`, and what it says of itself."""

    method: str
    path: str
    summary: str
    needs_key: bool
    answers: str = "application/json"
    """The content type of its answer."""


def describe(paths: Iterable[Path], version: str) -> Json:
    """The whole document."""
    described: dict[str, Json] = {}
    for path in paths:
        for template, operation in _operations(path):
            described.setdefault(template, {})[path.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "sparkd", "version": version, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": dict(sorted(described.items())),
        "components": {
            "schemas": {
                "Error": _ERROR,
                "AnthropicError": _ANTHROPIC_ERROR,
                "EngineError": {"type": "object", "description": _OF_THE_ENGINE},
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "azure": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _operations(path: Path) -> Iterator[tuple[str, Json]]:
    if _REST not in path.path:
        yield path.path, _operation(path)
        return
    for name in OPERATIONS:
        for rest in (name, f"{{model}}/{name}"):
            template = path.path.replace(_REST, rest)
            yield template, _inference(path, name, template)


def _operation(path: Path) -> Json:
    changes = path.method == "POST"
    statuses = [
        *(_OF_EVERY_KEY if path.needs_key else ()),
        *(_OF_A_MODEL if "{" in path.path else ()),
        *(_OF_A_CHANGE if changes else ()),
    ]
    answered = {"200": {"description": "Done.", "content": {path.answers: {}}}}
    return _common(path, path.path, path.summary) | {"responses": answered | _refusals(statuses)}


def _inference(path: Path, name: str, template: str) -> Json:
    content: Json = {"application/json": {"schema": {"type": "object"}}}
    by_path = "{model}" in template
    properties: Json = {} if by_path else {"model": {"type": "string", "minLength": 1}}
    if name in _STREAMING:
        content["text/event-stream"] = {}
        properties["stream"] = {"type": "boolean"}
    required = [] if by_path else ["model"]
    kind = "application/json"
    if OPERATIONS[name].form:
        kind = "multipart/form-data"
        properties["file"] = {"type": "string", "format": "binary"}
        required.append("file")
    body: Json = {"type": "object", "properties": properties}
    if required:
        body["required"] = required
    statuses = (*_OF_EVERY_KEY, *_OF_A_MODEL, *_OF_A_BODY, *_OF_A_CHANGE)
    engines = {"description": _OF_THE_ENGINE}
    summary = f"{path.summary} The engine answers at {OPERATIONS[name].upstream_path}."
    return _common(path, template, summary) | {
        "requestBody": {"required": True, "content": {kind: {"schema": body}}},
        "responses": {
            "200": {"description": "The model's answer, as it came.", "content": content},
            **_refusals(statuses, "EngineError"),
            "4XX": engines,
            "5XX": engines,
        },
    }


def _common(path: Path, template: str, summary: str) -> Json:
    words = re.findall(r"\w+", f"{path.method.lower()} {template}")
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", template)
    ]
    return {
        "operationId": "_".join(words),
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        "security": [{"bearer": []}, {"header": []}, {"azure": []}] if path.needs_key else [],
    }


def _refusals(statuses: Iterable[int], *other_forms: str) -> Json:
    return {str(status): _refusal(status, other_forms) for status in sorted(statuses)}


def _refusal(status: int, other_forms: Iterable[str]) -> Json:
    names = ("Error", "AnthropicError", *other_forms)
    forms = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    said: Json = {
        "description": ERRORS[status],
        "content": {"application/json": {"schema": {"anyOf": forms}}},
    }
    if status in (429, 503):
        when = {"description": "Seconds, where it is known.", "schema": {"type": "integer"}}
        said["headers"] = {"retry-after": when}
    return said


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "hint"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": _TEXT_OR_NULL,
                "code": _TEXT,
                "hint": _TEXT_OR_NULL,
            },
        }
    },
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": _TEXT, "message": _TEXT},
        },
    },
}
