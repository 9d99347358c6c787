# SPDX-License-Identifier: Apache-2.0
"""The memory that request bodies take together, and the refusal when they would take too much.

`body_limit` bounds one body, and this bounds their sum, so that many clients cannot bring the
gateway to the memory limit of its unit. The bytes of a body count from the moment they are read
until the engine has them.
"""

from __future__ import annotations

from sparkd.core.errors import BodiesFull

_RETRY_S = 5
"""A body leaves memory when its model is ready, which may take seconds or minutes."""


class BodyBudget:
    """The sum of all bodies in memory."""

    def __init__(self) -> None:
        self.held_bytes = 0


class BodyShare:
    """The part of the budget that one request takes."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def check(self, size_bytes: int, limit_bytes: int) -> None:
        """Raise BodiesFull if this many further bytes would exceed the limit."""
        if self._budget.held_bytes + size_bytes > limit_bytes:
            raise BodiesFull(
                f"the bodies of open requests take {self._budget.held_bytes} bytes, "
                f"the limit is {limit_bytes}",
                hint="send it again after retry-after, or raise bodies_limit in "
                "/etc/sparkd/sparkd.yaml",
                retry_after_s=_RETRY_S,
            )

    def take(self, size_bytes: int, limit_bytes: int) -> None:
        """Count bytes that were read. Raises BodiesFull."""
        self.check(size_bytes, limit_bytes)
        self.settle(self._bytes + size_bytes)

    def settle(self, size_bytes: int) -> None:
        """Count this size from now on: 0 when the body has left memory."""
        self._budget.held_bytes += size_bytes - self._bytes
        self._bytes = size_bytes
