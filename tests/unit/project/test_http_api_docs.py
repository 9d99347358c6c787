# SPDX-License-Identifier: Apache-2.0
"""docs/reference/http-api.md lists the endpoints that there are, each with what it asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.core.access.cors import EXPOSED
from sparkd.core.http.routing import OPERATIONS
from sparkd.gateway import application
from tests.unit.project.test_docs_true import DOCUMENTS

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/reference/http-api.md"
Endpoint = tuple[str, str, str]
"""Method, path, and what it asks of its caller."""


@pytest.fixture(scope="module")
def routes() -> set[Endpoint]:
    return set(endpoints())


ENDLESS = {"/events", "/logs/<model_id:path>"}


def endpoints() -> Iterator[Endpoint]:
    for route in application.routes():
        access = str(route.access)
        path = re.sub(r"<(\w+)(?::\w+)?>", "MODEL", route.path)
        for method in {*route.methods} - {"HEAD"}:
            if path == "/v1/MODEL":
                yield from ((method, f"/v1/{name}", access) for name in OPERATIONS)
            else:
                yield method, path, access


def documented() -> list[Endpoint]:
    rows = re.findall(
        r"^\| `(\w+) (/\S*)` \| (\w+) \| [^|]+ \|$", DOCUMENT.read_text(), re.MULTILINE
    )
    return [(method, path, access) for method, path, access in rows]


def test_every_endpoint_is_documented_with_its_scope_and_no_other_is(routes: set[Endpoint]) -> None:
    listed = documented()
    assert len(listed) == len(set(listed))
    assert set(listed) == routes


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_endpoints_that_are_named_exist(routes: set[Endpoint], document: Path) -> None:
    text = document.read_text()
    asked = re.findall(r"\b(GET|POST) (/[\w/.-]*)", text)
    addresses = set(re.findall(r"127\.0\.0\.1:8009(/[\w/.-]*)", text))
    # What a library completes by itself.
    addresses -= {"/v1"}
    assert set(asked) <= {(method, path) for method, path, _ in routes}
    assert addresses <= {path for _, path, _ in routes}


def test_headers_of_answers_that_a_page_may_read_are_the_documented_ones() -> None:
    rows = re.findall(r"^\| (`[a-z`, -]+`) \| [^|]+ \|$", DOCUMENT.read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall("`([a-z-]+)`", row)}
    assert {name for name in EXPOSED if not name.startswith("content-")} == {
        name for name in named if name.startswith("x-") or name == "retry-after"
    }


@pytest.mark.usefixtures("routes")
def test_head_is_answered_wherever_get_is_but_where_the_answer_has_no_end() -> None:
    for route in application.routes():
        endless = route.path in ENDLESS
        assert ("HEAD" in route.methods) == ("GET" in route.methods and not endless), route.path
