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
