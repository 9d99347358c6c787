# SPDX-License-Identifier: Apache-2.0
"""When a model whose start failed is tried again."""

from __future__ import annotations

import math

from sparkd.core.scheduling import backoff


def test_each_failure_doubles_the_wait_until_nobody_tries_any_more() -> None:
    waits_s = [backoff.until(1000.0, count) - 1000.0 for count in range(1, 8)]
    assert waits_s == [60, 120, 240, 480, math.inf, math.inf, math.inf]
