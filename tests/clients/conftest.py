# SPDX-License-Identifier: Apache-2.0
"""A host with the stand-in engine, a tap before its gateway, and the key for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.hosts import SETTINGS, Host, answer_of, chat_body

from .wire import Tap

MODEL = "fake-agent"


@pytest.fixture(scope="session")
def key(trixie: Host) -> str:
    return trixie.key


@pytest.fixture
def warm(trixie: Host, key: str) -> Host:
    """A host on which `MODEL` runs."""
    trixie.configure(SETTINGS)
    answer_of(trixie.request("POST", "/v1/chat/completions", key=key, json=chat_body(MODEL)))
    return trixie


@pytest.fixture
def tap(trixie: Host) -> Iterator[Tap]:
    made = Tap(trixie)
    yield made
    made.close()
