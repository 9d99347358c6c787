# SPDX-License-Identifier: Apache-2.0
"""The wire overrides steps of Sanic's own cycle: it must be the cycle that it was written for."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest
from sanic.exceptions import ServerError

from sparkd.gateway.http.protocol import _head

WRITTEN_FOR = {
    "sanic.http.http1": "64a29e81759ef884",
    "sanic.server.protocols.http_protocol": "4d543a1368740b36",
    "sanic.server.protocols.base_protocol": "e6f8b9d4df01036c",
}


@pytest.mark.parametrize(("module", "digest"), WRITTEN_FOR.items(), ids=WRITTEN_FOR)
def test_sanic_is_the_one_that_the_wire_was_written_for(module: str, digest: str) -> None:
    """When this fails: compare web/wire.py with Sanic's new steps, then note the new digest."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None  # noqa: PT018
    assert hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("value", ["a\r\nx-b: 1", "a\n", "a\r", "a\0"])
def test_header_with_a_line_break_never_reaches_the_wire(value: str) -> None:
    with pytest.raises(ServerError):
        _head(200, {"x-a": value})  # type: ignore[arg-type]


def test_head_is_what_was_asked_byte_for_byte() -> None:
    head = _head(299, {"x-a": "caf\u00e9 \udcff"})  # type: ignore[arg-type]
    assert head == b"HTTP/1.1 299 \r\nx-a: caf\xc3\xa9 \xff\r\n\r\n"
