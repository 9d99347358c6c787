# SPDX-License-Identifier: Apache-2.0
"""What keys use and how much they may: open requests, requests within a minute, wrong tries.

Figures of one gateway since it began; the lasting record is the journal, where each request has
the name of its key. Reads no clock: times are monotonic seconds, given by the caller.
"""

from __future__ import annotations

import functools
import ipaddress
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sparkd.core.apikeys import ApiKey
from sparkd.core.errors import TooManyRequests

_MINUTE_S = 60.0
_OPEN_RETRY_S = 1
"""Nobody knows when an open request will end."""
WRONG_KEYS_MOST = 20
"""Wrong keys from one address within a minute; after that its keys are not looked at."""
_ADDRESSES_MOST = 1024


@dataclass(slots=True)
class Meter:
    """What one key has used."""

    name: str
    open: int = 0
    requests: int = 0
    """Let in since the gateway began."""
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    _begun: deque[float] = field(default_factory=deque)
    """When the requests of the last minute began; kept only for a key that is limited."""

    def enter(self, key: ApiKey, now_s: float) -> None:
        """Count a request in, or raise TooManyRequests; `leave` when it has ended."""
        if key.concurrent is not None and self.open >= key.concurrent:
            self.refused += 1
            raise TooManyRequests(
                f"the API key {key.name!r} has {self.open} requests open, its limit",
                hint="wait until one has ended, or add a key with a higher --concurrent",
                code="too_many_open",
                retry_after_s=_OPEN_RETRY_S,
            )
        if key.per_minute is not None:
            self._pace(key, key.per_minute, now_s)
        self.open += 1
        self.requests += 1

    def leave(self) -> None:
        self.open -= 1

    def used_tokens(self, *, input_tokens: int, output_tokens: int) -> None:
        """For whoever reads the usage that an answer ends with."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def _pace(self, key: ApiKey, most: int, now_s: float) -> None:
        begun = self._begun
        while begun and begun[0] <= now_s - _MINUTE_S:
            begun.popleft()
        if len(begun) >= most:
            self.refused += 1
            raise TooManyRequests(
                f"the API key {key.name!r} has begun {len(begun)} requests within a minute, "
                "its limit",
                hint="ask again after retry-after, or add a key with a higher --per-minute",
                code="rate_limited",
                retry_after_s=max(1, math.ceil(begun[-most] + _MINUTE_S - now_s)),
            )
        begun.append(now_s)


class Meters:
    """The meters of all keys that were ever used, by name."""

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}

    def of(self, key: ApiKey) -> Meter:
        meter = self._meters.get(key.name)
        if meter is None:
            meter = self._meters[key.name] = Meter(key.name)
        return meter

    def all(self) -> tuple[Meter, ...]:
        return tuple(self._meters.values())


class WrongKeys:
    """Addresses that send wrong keys, and how they are slowed down.

    After `WRONG_KEYS_MOST` within a minute an address is answered without a look at its key, so
    that guessing gets nowhere; but not where that very key was right from that address before:
    a client that is set up wrongly must not lock out the others of its machine. Bounded, by
    forgetting the oldest.
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}
        """How many, and since when."""
        self._right: dict[tuple[str, str], None] = {}

    def check(self, address: str, digest: str, now_s: float) -> None:
        """Raise TooManyRequests when this key is not to be looked at now."""
        count, since_s = self._counts.get(address, (0, now_s))
        if count < WRONG_KEYS_MOST or (address, digest) in self._right:
            return
        left_s = since_s + _MINUTE_S - now_s
        if left_s <= 0:
            del self._counts[address]
            return
        raise TooManyRequests(
            f"{count} wrong API keys came from this address",
            hint="wait a minute, then send a right one: sudo sparkctl key show",
            code="too_many_wrong_keys",
            retry_after_s=math.ceil(left_s),
        )

    def wrong(self, address: str, now_s: float) -> int:
        """Note a wrong key; how many there were lately."""
        count, since_s = self._counts.pop(address, (0, now_s))
        if now_s - since_s >= _MINUTE_S:
            count, since_s = 0, now_s
        self._counts[address] = (count + 1, since_s)
        _forget_oldest(self._counts)
        return count + 1

    def right(self, address: str, digest: str) -> None:
        """Note a key that was right, before it is needed."""
        if (address, digest) not in self._right:
            self._right[address, digest] = None
            _forget_oldest(self._right)


@functools.lru_cache(maxsize=1024)
def origin_of(address: str) -> str:
    """Whom an address of a client stands for, among whom wrong keys are counted.

    An IPv6 host has a whole network of addresses to come from. One of IPv4 that a socket of both
    kinds shows as ::ffff:192.0.2.1 has only that, and shares no network with all the others.
    """
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv4Address):
        return address
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((int(known), 64), strict=False))


def _forget_oldest(entries: dict[Any, Any]) -> None:
    if len(entries) > _ADDRESSES_MOST:
        del entries[next(iter(entries))]
