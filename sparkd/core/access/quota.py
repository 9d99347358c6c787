# SPDX-License-Identifier: Apache-2.0
"""The use of keys and its limits: open requests, requests within a minute, wrong tries.

Figures of one gateway since it began; the lasting record is the journal, where each request has
the name of its key. Reads no clock: times are monotonic seconds, given by the caller.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sparkd.core.access.api_keys import ApiKey, Scope
from sparkd.core.errors import TooManyRequests

_MINUTE_S = 60.0
_OPEN_RETRY_S = 1
"""The end of an open request is unknown."""
WRONG_KEYS_MOST = 20
"""Wrong keys from one address within a minute; further ones get 429."""
READS_PER_MINUTE = 300
"""Requests of one key within a minute that are not inference; the status page sends 60."""
LISTENERS_MOST = 16
"""Streams of events that one key may have open."""
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
    listeners: int = 0
    _begun: deque[float] = field(default_factory=deque)
    """When the requests of the last minute began; kept only for a key that is limited."""
    _reads: deque[float] = field(default_factory=deque)
    """The same for requests that are not inference."""

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
            self._pace(
                self._begun,
                key.per_minute,
                now_s,
                before=f"the API key {key.name!r} has begun ",
                after=" requests within a minute, its limit",
                hint="ask again after retry-after, or add a key with a higher --per-minute",
            )
        self.open += 1
        self.requests += 1

    def read(self, key: ApiKey, now_s: float) -> None:
        """Count a request that is not inference, or raise TooManyRequests.

        Keys of admins are not limited: they can stop every model anyway.
        """
        if Scope.ADMIN in key.scopes:
            return
        self._pace(
            self._reads,
            READS_PER_MINUTE,
            now_s,
            before=f"the API key {key.name!r} has sent ",
            after=" requests other than inference within a minute, the limit",
            hint="ask again after retry-after, and less often",
        )

    @contextlib.contextmanager
    def listening(self, key: ApiKey) -> Iterator[None]:
        """Count a stream of events while it is open. Raises TooManyRequests."""
        if self.listeners >= LISTENERS_MOST and Scope.ADMIN not in key.scopes:
            self.refused += 1
            raise TooManyRequests(
                f"the API key {key.name!r} has {self.listeners} streams of events open, the limit",
                hint="close one",
                code="too_many_open",
                retry_after_s=_OPEN_RETRY_S,
            )
        self.listeners += 1
        try:
            yield
        finally:
            self.listeners -= 1

    def leave(self) -> None:
        self.open -= 1

    def used_tokens(self, *, input_tokens: int, output_tokens: int) -> None:
        """For the reader of the usage at the end of a response."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def _pace(
        self, begun: deque[float], most: int, now_s: float, *, before: str, after: str, hint: str
    ) -> None:
        """Count a request among those of the last minute, or raise TooManyRequests.

        The message is `before`, their number, and `after`.
        """
        while begun and begun[0] <= now_s - _MINUTE_S:
            begun.popleft()
        if len(begun) >= most:
            self.refused += 1
            raise TooManyRequests(
                f"{before}{len(begun)}{after}",
                hint=hint,
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
    """Addresses that send wrong keys: after `WRONG_KEYS_MOST` within a minute they get 429.

    Only keys that this server does not have are counted and refused here. A right key is answered
    whatever else its address sent: one client that is set up wrongly must not lock out the others
    of its machine. Bounded, by forgetting the oldest.
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}
        """How many, and since when."""

    def wrong(self, address: str, now_s: float) -> int:
        """Count a wrong key; the number of this minute. Raises TooManyRequests after too many."""
        count, since_s = self._counts.get(address, (0, now_s))
        left_s = since_s + _MINUTE_S - now_s
        if count >= WRONG_KEYS_MOST and left_s > 0:
            raise TooManyRequests(
                f"{count} wrong API keys came from this address, and this one is wrong too",
                hint="send a right key: sudo sparkctl key show",
                code="too_many_wrong_keys",
                retry_after_s=math.ceil(left_s),
            )
        if left_s <= 0:
            count, since_s = 0, now_s
        self._counts.pop(address, None)
        self._counts[address] = (count + 1, since_s)
        _forget_oldest(self._counts)
        return count + 1


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
