# SPDX-License-Identifier: Apache-2.0
"""Bounded numbers from untrusted text: the one parser for what clients, engines and hubs send.

Pure. A reader that takes a number out of a query string, a header, a metrics page or a listing
calls these instead of `int` and `float`, which raise on overlong digits and pass on infinities.
"""

from __future__ import annotations

import math
import re

_LONGEST = 40
"""More characters than any number that is meant has; `int` alone is quadratic in them."""
MOST_KEPT = (1 << 63) - 1
"""The largest number that a record of sparkd's own may hold."""
_INTEGER = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


def bounded_int(text: str, *, most: int, least: int = 0) -> int | None:
    """The integer of plain ASCII digits, or None if it is not one or not in `least`..`most`."""
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if least <= number <= most else None


def bounded_float(text: str, *, most: float, least: float = 0.0) -> float | None:
    """The finite decimal number, or None if it is not one or not in `least`..`most`."""
    if len(text) > _LONGEST or not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) and least <= number <= most else None


def plain_int(value: object, *, most: int = MOST_KEPT, least: int = 0) -> int | None:
    """The value of parsed JSON if it is an integer in `least`..`most`, or None."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    return None


def plain_float(
    value: object, *, most: float = float(MOST_KEPT), least: float = 0.0
) -> float | None:
    """The value of parsed JSON if it is a finite number in `least`..`most`, or None."""
    if isinstance(value, float):
        return value if math.isfinite(value) and least <= value <= most else None
    whole = plain_int(value, most=int(most), least=int(least))
    return None if whole is None else float(whole)
