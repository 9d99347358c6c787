# SPDX-License-Identifier: Apache-2.0
"""The 429 for who may not wait: every number in it is true."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.errors import Busy
from sparkd.core.scheduling.busy import Running, busy

NOW = 1_700_000_100.0
ONE = Running(
    model_id="b",
    state="ready",
    started_at=NOW - 90.9,
    last_used_at=NOW - 12.2,
    in_use=False,
    pinned=False,
    release_at=NOW + 17.4,
)


def refusal(*running: Running) -> Busy:
    return busy("a", "b is in use", running, NOW, code="busy", hint="come again")


def test_refusal_says_who_is_in_the_way_and_since_when() -> None:
    error = refusal(ONE)
    assert error.message == "model 'a' cannot be served now: b is in use"
    assert (error.http_status, error.retry_after_s) == (429, 18)
    current = {
        "name": "b",
        "state": "ready",
        "startedAt": 1_700_000_009_100,
        "startedAtISO": "2023-11-14T22:13:29.100+00:00",
        "uptimeSec": 90,
        "idleSec": 12,
        "lastSeenISO": "2023-11-14T22:14:47.800+00:00",
        "timeUntilReleaseSec": 18,
        "willAutoStop": True,
    }
    assert error.details == {
        "busy": True,
        "requested": "a",
        "currentModel": current,
        "running": [current],
        "retryAfterSec": 18,
    }
    assert error.headers == {
        "x-busy-model": "b",
        "x-model-uptime-sec": "90",
        "x-model-idle-sec": "12",
        "x-time-until-release-sec": "18",
        "x-model-will-auto-stop": "true",
    }


def test_model_in_use_is_not_idle_and_a_pinned_one_does_not_stop() -> None:
    error = refusal(replace(ONE, in_use=True, pinned=True))
    assert error.headers["x-model-idle-sec"] == "0"
    assert error.headers["x-model-will-auto-stop"] == "false"


def test_last_to_go_decides_when_to_come_again() -> None:
    later = replace(ONE, model_id="c", release_at=NOW + 40)
    error = refusal(ONE, later)
    assert error.retry_after_s == 40
    assert error.headers["x-busy-model"] == "b"
    assert [one["name"] for one in error.details["running"]] == ["b", "c"]  # type: ignore[attr-defined]


def test_nobody_in_the_way_is_no_reason_to_wait_long() -> None:
    error = refusal()
    assert error.retry_after_s == 1
    assert error.details["currentModel"] is None
    assert error.headers == {}


@given(st.floats(-1e6, 1e6))
def test_time_to_come_again_is_one_that_clients_obey(remaining_s: float) -> None:
    error = refusal(replace(ONE, release_at=NOW + remaining_s))
    assert error.retry_after_s is not None
    assert 1 <= error.retry_after_s <= 60
    if 1 <= remaining_s <= 59:
        assert remaining_s <= error.retry_after_s <= remaining_s + 1.001


@pytest.mark.parametrize("at", [NOW + 5, NOW + 1000])
def test_clock_that_was_set_back_gives_no_negative_times(at: float) -> None:
    error = refusal(replace(ONE, started_at=at, last_used_at=at, release_at=NOW - at))
    numbers = [v for v in error.details["running"][0].values() if type(v) is int]  # type: ignore[index]
    assert all(number >= 0 for number in numbers)
