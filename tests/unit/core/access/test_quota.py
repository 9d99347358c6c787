# SPDX-License-Identifier: Apache-2.0
"""Limits of keys: exact in every minute, fair to the innocent, bounded in memory."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.access.api_keys import ApiKey, Scope
from sparkd.core.access.quota import (
    LISTENERS_MOST,
    READS_PER_MINUTE,
    WRONG_KEYS_MOST,
    Meter,
    Meters,
    WrongKeys,
    origin_of,
)
from sparkd.core.errors import TooManyRequests


def key(concurrent: int | None = None, per_minute: int | None = None) -> ApiKey:
    return ApiKey(name="laptop", digest="", concurrent=concurrent, per_minute=per_minute)


def test_key_without_limits_is_only_counted() -> None:
    meter = Meter("laptop")
    for _ in range(1000):
        meter.enter(key(), 0)
    meter.leave()
    assert (meter.open, meter.requests, meter.refused) == (999, 1000, 0)


def test_open_requests_are_limited_and_one_that_ends_makes_room() -> None:
    meter = Meter("laptop")
    for _ in range(2):
        meter.enter(key(concurrent=2), 0)
    with pytest.raises(TooManyRequests, match="has 2 requests open") as caught:
        meter.enter(key(concurrent=2), 0)
    assert (caught.value.code, caught.value.retry_after_s) == ("too_many_open", 1)
    meter.leave()
    meter.enter(key(concurrent=2), 0)
    assert (meter.open, meter.requests, meter.refused) == (2, 3, 1)


def test_retry_after_is_when_the_next_request_will_be_let_in() -> None:
    meter = Meter("laptop")
    for at_s in (0.0, 10.5):
        meter.enter(key(per_minute=2), at_s)
    with pytest.raises(TooManyRequests) as caught:
        meter.enter(key(per_minute=2), 20)
    assert caught.value.retry_after_s == 40
    meter.enter(key(per_minute=2), 60)
    with pytest.raises(TooManyRequests):
        meter.enter(key(per_minute=2), 70)
    meter.enter(key(per_minute=2), 70.5)


def test_limit_that_was_lowered_counts_from_the_next_request_on() -> None:
    meter = Meter("laptop")
    for at_s in range(5):
        meter.enter(key(per_minute=5), at_s)
    with pytest.raises(TooManyRequests) as caught:
        meter.enter(key(per_minute=2), 10)
    assert caught.value.retry_after_s == 3 + 60 - 10


@given(st.integers(1, 5), st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_no_minute_ever_has_more_than_the_limit(most: int, pauses: list[int]) -> None:
    meter, now_s, begun = Meter("laptop"), 0, list[int]()
    for pause_s in pauses:
        now_s += pause_s
        try:
            meter.enter(key(per_minute=most), now_s)
        except TooManyRequests as error:
            now_s += error.retry_after_s or 0
            meter.enter(key(per_minute=most), now_s)
        begun.append(now_s)
    for first, last in zip(begun, begun[most:], strict=False):
        assert last - first >= 60


def test_tokens_are_added_to_what_the_key_used() -> None:
    meters = Meters()
    meters.of(key()).used_tokens(input_tokens=3, output_tokens=4)
    meters.of(key()).used_tokens(input_tokens=3, output_tokens=4)
    (meter,) = meters.all()
    assert (meter.name, meter.input_tokens, meter.output_tokens) == ("laptop", 6, 8)


def guessed(wrong: WrongKeys, count: int, address: str = "10.0.0.9", at_s: float = 0) -> None:
    for _ in range(count):
        wrong.wrong(address, at_s)


def test_further_wrong_keys_of_an_address_are_throttled_for_the_rest_of_the_minute() -> None:
    wrong = WrongKeys()
    guessed(wrong, WRONG_KEYS_MOST)
    with pytest.raises(TooManyRequests) as caught:
        wrong.wrong("10.0.0.9", 20)
    assert (caught.value.code, caught.value.retry_after_s) == ("too_many_wrong_keys", 40)
    assert wrong.wrong("10.0.0.8", 20) == 1
    assert wrong.wrong("10.0.0.9", 60) == 1


def test_few_wrong_keys_in_each_minute_change_nothing() -> None:
    wrong = WrongKeys()
    for minute in range(5):
        guessed(wrong, WRONG_KEYS_MOST - 1, at_s=minute * 60)
    assert wrong.wrong("10.0.0.9", 241) == WRONG_KEYS_MOST


def test_memory_for_addresses_is_bounded() -> None:
    wrong = WrongKeys()
    for number in range(5000):
        wrong.wrong(str(number), 0)
    assert len(wrong._counts) == 1024


def test_reads_of_a_key_have_a_budget_of_their_own() -> None:
    meter, small = Meter("laptop"), key(concurrent=1, per_minute=1)
    for _ in range(READS_PER_MINUTE):
        meter.read(small, 1)
    with pytest.raises(TooManyRequests, match="other than inference") as caught:
        meter.read(small, 21)
    assert (caught.value.code, caught.value.retry_after_s) == ("rate_limited", 40)
    meter.enter(small, 21)
    meter.read(small, 61)
    assert (meter.requests, meter.refused) == (1, 1)


def test_streams_of_events_of_a_key_are_limited_and_one_that_ends_makes_room() -> None:
    meter = Meter("laptop")
    with contextlib.ExitStack() as others:
        for _ in range(LISTENERS_MOST - 1):
            others.enter_context(meter.listening(key()))
        with meter.listening(key()):
            with pytest.raises(TooManyRequests), meter.listening(key()):
                pass
            assert meter.refused == 1
        with meter.listening(key()):
            pass


def test_key_of_an_admin_reads_without_a_limit() -> None:
    meter, admin = Meter("a"), replace(key(), scopes=(Scope.ADMIN,))
    for _ in range(READS_PER_MINUTE + 1):
        meter.read(admin, 0)
    assert meter.refused == 0


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fd7a:115c:a1e0::1", "fd7a:115c:a1e0::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        # As a socket that listens on all addresses of both kinds has them.
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.8", "192.0.2.8"),
        ("::1", "::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_wrong_keys_count_for_the_host_that_they_come_from(address: str, origin: str) -> None:
    assert origin_of(address) == origin
