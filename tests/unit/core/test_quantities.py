# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes: what is read, what is refused and with which hint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.errors import RequestError
from sparkd.core.quantities import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("90s", 90),
        ("20m", 1200),
        ("1h30m", 5400),
        ("1h1m1s1ms", 3661.001),
        ("0s", 0),
        ("1m500ms", 60.5),
    ],
)
def test_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "90", "1.5h", "30m1h", "1m1m", "-5s", "1 h", "5min", "٣s", "9999999999s"]
)
def test_what_is_not_a_duration_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_duration(text)
    assert repr(text) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("8GiB", 8 << 30), ("512MiB", 512 << 20), ("64KiB", 64 << 10), ("2TiB", 2 << 40), ("7B", 7)],
)
def test_size_is_read_as_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("8GB", "write it like"),
        ("512 MiB", "write it like"),
        ("", "write it like"),
        ("many", "write it like"),
    ],
)
def test_what_is_not_a_size_is_refused_with_the_right_spelling(text: str, hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_size(text)
    assert hint in caught.value.hint
    assert repr(text) in caught.value.message


@given(st.integers(min_value=0, max_value=10**12))
def test_formatted_duration_reads_as_the_same_milliseconds(duration_ms: int) -> None:
    assert parse_duration(format_duration(duration_ms / 1000)) == duration_ms / 1000


@given(st.integers(min_value=0, max_value=1 << 49))
def test_formatted_size_reads_as_the_same_bytes(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("seconds", "text"), [(1200, "20m"), (90, "1m30s"), (0, "0s"), (0.25, "250ms"), (86400, "24h")]
)
def test_duration_is_shown_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(64 << 20, "64MiB"), (0, "0B"), (1536 << 20, "1536MiB"), (7, "7B")]
)
def test_size_is_shown_short(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
