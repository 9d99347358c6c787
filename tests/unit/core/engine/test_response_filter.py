# SPDX-License-Identifier: Apache-2.0
"""The head of a model server's response: only listed headers and statuses reach a client."""

from __future__ import annotations

import pytest

from sparkd.core.engine.response_filter import content_type, passed_headers, passes
from sparkd.gateway.proxy import request_headers


def passed(*headers: tuple[str, str]) -> dict[str, str]:
    return dict(passed_headers([(n.encode(), v.encode("latin-1")) for n, v in headers]))


@pytest.mark.parametrize(
    "name",
    [
        *("location", "refresh", "content-location", "link", "www-authenticate"),
        *("proxy-authenticate", "authentication-info", "set-cookie", "set-cookie2"),
        *("clear-site-data", "alt-svc", "strict-transport-security", "public-key-pins"),
        *("access-control-allow-origin", "access-control-allow-private-network"),
        *("content-security-policy", "service-worker-allowed", "sourcemap", "nel", "report-to"),
        *("connection", "keep-alive", "transfer-encoding", "upgrade", "trailer"),
        *("date", "server", "x-request-id", "x-should-retry", "x-sparkd-model", "retry-after-ms"),
        *("content-disposition", "x-ratelimit-reset-requests", "x-anything", "etag", "vary"),
    ],
)
def test_header_that_is_not_listed_stays_here(name: str) -> None:
    assert passed((name, "1"), ("content-type", "application/json")) == {
        "content-type": "application/json"
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-type", "application/json"),
        ("content-type", "text/event-stream; charset=utf-8"),
        ("content-type", "audio/mpeg"),
        ("content-length", "17"),
        ("content-encoding", "gzip"),
        ("cache-control", "no-cache, no-transform"),
        ("retry-after", "7"),
        ("openai-processing-ms", "12.5"),
        ("openai-version", "2020-10-01"),
    ],
)
def test_header_of_these_apis_passes_as_it_came(name: str, value: str) -> None:
    assert passed((name, value)) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retry-after", "99999999"),
        ("retry-after", "-1"),
        ("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT"),
        ("retry-after", "1e9"),
        ("content-length", "9" * 5000),
        ("content-length", "0x11"),
        ("content-encoding", "gzip, gzip, gzip"),
        ("cache-control", "public, max-age=31536000"),
        ("openai-processing-ms", "nan"),
        ("openai-version", "x" * 300),
        ("content-type", "application/json; x=" + "y" * 300),
        ("content-type", "application/json\x01"),
        ("content-type", "application/jsön"),
    ],
)
def test_value_outside_its_bounds_stays_here(name: str, value: str) -> None:
    assert passed((name, value)) == {}


@pytest.mark.parametrize(
    "kind",
    ["text/html", "TEXT/HTML", "image/svg+xml", "text/xml", "application/javascript", "x", "text/"],
)
def test_type_that_a_browser_could_run_becomes_plain_bytes(kind: str) -> None:
    assert passed(("content-type", kind)) == {"content-type": "application/octet-stream"}


def test_first_of_a_repeated_header_counts_for_the_gateway_and_for_the_client() -> None:
    headers = [(b"content-type", b"application/json"), (b"content-type", b"text/event-stream")]
    assert content_type(headers) == "application/json"
    assert passed_headers(headers) == [("content-type", "application/json")]


@pytest.mark.parametrize(
    "status",
    [*range(100, 104), *range(300, 310), 399, 401, 402, 403, 407, 421, 426, 511, 0, 199, 600, 999],
)
def test_status_about_key_connection_or_place_stays_here(status: int) -> None:
    assert not passes(status)


@pytest.mark.parametrize("status", [200, 201, 400, 404, 413, 422, 429, 499, 500, 503, 504, 599])
def test_status_of_a_response_passes(status: int) -> None:
    assert passes(status)


def test_id_of_the_client_does_not_reach_the_engine() -> None:
    sent = [request_headers({"x-request-id": "mine", "x-odd": "1"}) for _ in range(2)]
    ids = {headers.pop("x-request-id") for headers in sent}
    assert len(ids) == 2
    assert "mine" not in ids
    assert sent == [{"x-odd": "1", "accept-encoding": "identity"}] * 2
