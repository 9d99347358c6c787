# SPDX-License-Identifier: Apache-2.0
"""The description of the API: all routes are in it, none is invented, and it promises nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sanic import Sanic

from sparkd.core import errors
from sparkd.core.errors import SparkdError
from sparkd.core.http import openapi
from sparkd.core.http.routing import OPERATIONS
from sparkd.core.model import Config
from sparkd.gateway.application import create_server, routes
from sparkd.gateway.handlers import description

OPEN = {"/", "/healthz", "/openapi.json"}


@pytest.fixture(scope="module")
def app() -> Iterator[Sanic[Any, Any]]:
    nothing = SimpleNamespace(config=Config(), unauthenticated=None, pacing=None)
    made = create_server(nothing).app  # type: ignore[arg-type]
    made.router.finalize()
    yield made
    Sanic.unregister_app(made)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.describe(description.paths(routes()), "1.2.3")


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def test_every_route_is_described_and_every_described_path_has_a_route(
    app: Sanic[Any, Any], document: dict[str, Any]
) -> None:
    def route_of(path: str, method: str) -> tuple[str, str]:
        asked = re.sub(r"{\w+}", "some/model", path)
        return app.router.get(asked, method, None)[0].path, method

    found = {route_of(path, method) for path, method, _ in operations(document)}
    there = {(r.path, method) for r in app.router.routes for method in r.methods - {"HEAD"}}
    assert found == there


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_can_name_its_model_in_the_body_or_in_the_path(
    name: str, document: dict[str, Any]
) -> None:
    by_body = document["paths"][f"/v1/{name}"]["post"]
    by_path = document["paths"][f"/v1/{{model}}/{name}"]["post"]
    kind = "multipart/form-data" if OPERATIONS[name].form else "application/json"
    also = ["file"] if OPERATIONS[name].form else []
    schemas = [
        operation["requestBody"]["content"][kind]["schema"] for operation in (by_body, by_path)
    ]
    assert [schema.get("required", []) for schema in schemas] == [["model", *also], also]
    assert OPERATIONS[name].upstream_path in by_body["summary"]


def test_every_status_of_an_error_is_explained_and_no_other() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    statuses = {kind.http_status for kind in kinds if issubclass(kind, SparkdError)}
    assert set(openapi.ERRORS) == statuses


def test_only_what_tells_nothing_needs_no_key(document: dict[str, Any]) -> None:
    unguarded = {path for path, _, operation in operations(document) if not operation["security"]}
    assert unguarded == OPEN
    for path, _, operation in operations(document):
        assert ("401" in operation["responses"]) == (path not in OPEN)


def test_every_operation_says_what_it_does_under_a_name_of_its_own(
    document: dict[str, Any],
) -> None:
    summaries = [operation["summary"] for _, _, operation in operations(document)]
    assert all(summary.endswith(".") for summary in summaries), summaries
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))


def test_parameters_are_those_of_the_path(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        declared = [parameter["name"] for parameter in operation.get("parameters", [])]
        assert declared == re.findall(r"{(\w+)}", path)


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    named = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert named == set(document["components"]["schemas"])
