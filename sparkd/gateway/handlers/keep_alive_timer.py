# SPDX-License-Identifier: Apache-2.0
"""The timer that sends keep-alives into one event stream while its engine is silent.

It adds no work to a chunk: the timer reads the time of the last one from `ResponseMeter`. A
keep-alive goes out between two events only, never to a client that does not read, and never after
the end mark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from sparkd.core.http.keep_alive import KeepAlives, may_follow
from sparkd.core.telemetry.traffic import ResponseMeter
from sparkd.gateway.http.protocol import HttpCycle

INTERVAL_S = 10.0
"""Clients of Anthropic's API give up after 15 to 20 s without an event."""


class KeepAliveTimer:
    """The keep-alives of one stream. Close it."""

    def __init__(
        self, wire: HttpCycle, beats: KeepAlives, begin: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """`begin` sends the head of the response and a first keep-alive."""
        self._wire, self._beats, self._begin = wire, beats, begin
        self._response_meter: ResponseMeter | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._last_s = 0.0
        self.begun = False
        """Whether the head of the response was sent."""

    def beat(self, text: str) -> bytes:
        """A keep-alive, with this text if its form has a place for text."""
        first = b"" if self._response_meter is None else self._response_meter.first
        return self._beats.beat(text, first)

    def start(self, response_meter: ResponseMeter | None = None) -> None:
        """Watch the silence; `response_meter` meters the response, once there is one."""
        self.close()
        self._response_meter, self._last_s = response_meter, monotonic()
        self._arm(INTERVAL_S)

    async def stop(self) -> None:
        """Stop, and return when the last keep-alive is written."""
        beginning, self._beginning = self._beginning, None
        self.close()
        if beginning is not None:
            await beginning

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None

    def _arm(self, after_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(after_s, self._on_time)

    def _on_time(self) -> None:
        response_meter, now_s = self._response_meter, monotonic()
        last_s = (
            self._last_s if response_meter is None else max(self._last_s, response_meter.last_s)
        )
        if now_s - last_s < INTERVAL_S:
            self._arm(last_s + INTERVAL_S - now_s)
            return
        self._last_s = now_s
        beat = self.beat(f"sparkd waiting for {self._beats.model_id}")
        if not self.begun:
            if self._beginning is None:
                self._beginning = asyncio.create_task(self._begin_with(beat))
        elif self._wire.takes_more() and (
            response_meter is None or may_follow(response_meter.tail())
        ):
            self._wire.put(beat)
        self._arm(INTERVAL_S)

    async def _begin_with(self, beat: bytes) -> None:
        await self._begin(beat)
