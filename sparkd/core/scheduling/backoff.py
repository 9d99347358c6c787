# SPDX-License-Identifier: Apache-2.0
"""The back-off of a model whose start failed: 1, 2, 4, 8 minutes, then no automatic start."""

from __future__ import annotations

FIRST_S = 60.0
GIVE_UP_AFTER = 5
"""Failures in a row; a host that leaks memory at each failed start must not be ground down."""


def until(failed_s: float, count: int) -> float:
    """The time of the next try after `count` failures in a row; infinity for never."""
    if count >= GIVE_UP_AFTER:
        return float("inf")
    return failed_s + FIRST_S * (1 << (count - 1))
