# SPDX-License-Identifier: Apache-2.0
"""The sum of bodies in memory: never above its limit, and no byte is lost or counted twice."""

from __future__ import annotations

import pytest

from sparkd.core.errors import BodiesFull
from sparkd.gateway.body_budget import BodyBudget, BodyShare


def test_bodies_that_would_exceed_the_limit_together_are_refused() -> None:
    budget = BodyBudget()
    first, second = BodyShare(budget), BodyShare(budget)
    first.take(60, 100)
    with pytest.raises(BodiesFull) as caught:
        second.take(41, 100)
    assert (caught.value.http_status, caught.value.code) == (503, "bodies_full")
    assert caught.value.retry_after_s == 5
    second.take(40, 100)
    assert budget.held_bytes == 100


def test_body_that_has_left_memory_makes_room_once() -> None:
    budget = BodyBudget()
    share = BodyShare(budget)
    share.take(60, 100)
    share.settle(30)
    assert budget.held_bytes == 30
    share.settle(0)
    share.settle(0)
    assert budget.held_bytes == 0
