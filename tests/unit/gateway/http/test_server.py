# SPDX-License-Identifier: Apache-2.0
"""The server's limits, where Sanic's own are others."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sanic import Sanic

from sparkd.core.model import Config
from sparkd.gateway.application import create_server
from sparkd.gateway.http import client_link


@pytest.fixture
def app() -> Iterator[Sanic[Any, Any]]:
    nothing = SimpleNamespace(config=Config(), unauthenticated=None, pacing=None)
    made = create_server(nothing).app  # type: ignore[arg-type]
    yield made
    Sanic.unregister_app(made)


def test_reader_of_a_last_response_has_as_long_as_any_other(app: Sanic[Any, Any]) -> None:
    assert app.config.GRACEFUL_TCP_CLOSE_TIMEOUT == client_link.STALL_S


def test_load_of_an_hour_does_not_time_out(app: Sanic[Any, Any]) -> None:
    assert app.config.RESPONSE_TIMEOUT > 24 * 3600
