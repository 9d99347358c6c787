# SPDX-License-Identifier: Apache-2.0
"""The demand on each message that a target meets."""

from __future__ import annotations

from sparkd.core.errors import SparkdError
from sparkd.core.model import Problem


def assert_clear(problem: Problem | SparkdError | str) -> None:
    """A message is one line that a person may read."""
    text = str(problem)
    assert text, problem
    assert len(text.splitlines()) == 1, text
    text.encode()
