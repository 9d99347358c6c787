# SPDX-License-Identifier: Apache-2.0
"""The waiting requests by model, which only a running gateway knows.

Asking a stopped gateway would start it, and no request can wait there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sparkd.core.errors import SparkdError
from sparkd.sparkctl import gateway_address
from sparkd.sparkctl.system_units import SystemUnit

_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The requests that wait for one model."""

    model: str
    waiting: int
    oldest_s: float
    """The time that the first of them has waited."""
    loading: bool
    why: str


def read(service: SystemUnit, words: Sequence[str]) -> tuple[Waiting, ...] | None:
    """The queue by model, or None when it is unknown."""
    if service.pid is None:
        return ()
    try:
        return asyncio.run(_ask(gateway_address.url(), gateway_address.key(words)))
    except (SparkdError, TimeoutError, LookupError, TypeError):
        # The key may not read states, or the gateway is stopping or of another version.
        return None


async def _ask(url: str, key: str) -> tuple[Waiting, ...]:
    from sparkd.adapters.gateway_client import Gateway, error_of

    async with asyncio.timeout(_PATIENCE_S), Gateway(url, key) as client:
        reply = await client.ask("/status", None)
    if reply.status != 200:
        raise error_of(reply.status, reply.body)
    names = Waiting.__dataclass_fields__
    return tuple(Waiting(**{name: entry[name] for name in names}) for entry in reply.body["queue"])
