# SPDX-License-Identifier: Apache-2.0
"""Numbers from untrusted text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.numbers import bounded_float, bounded_int


@pytest.mark.parametrize("text", ["0", "7", "600"])
def test_plain_digits_within_the_bounds_are_a_number(text: str) -> None:
    assert bounded_int(text, most=600) == int(text)


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1.0", "601", " 7", "7\n", "٣", "²", "1_0", "9" * 5000]
)
def test_anything_else_is_no_integer(text: str) -> None:
    assert bounded_int(text, most=600) is None


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0.0), ("1.5", 1.5), (".5", 0.5), ("2.", 2.0), ("1e3", 1000.0)]
)
def test_a_decimal_within_the_bounds_is_a_number(text: str, number: float) -> None:
    assert bounded_float(text, most=1e6) == number


@pytest.mark.parametrize(
    "text", ["", "1e308", "1e309", "1e5e5", "nan", "inf", "-inf", "-1", "1e-", "0x1", "1" * 5000]
)
def test_anything_else_is_no_decimal(text: str) -> None:
    assert bounded_float(text, most=1e6) is None


@given(st.text())
def test_no_text_raises(text: str) -> None:
    for number in (bounded_int(text, most=10), bounded_float(text, most=10.0)):
        assert number is None or 0 <= number <= 10
