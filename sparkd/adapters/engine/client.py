# SPDX-License-Identifier: Apache-2.0
"""HTTP to a model's server: its health, a request, and the response as it arrives.

Nothing is decided here: `ConnectFailed` means that the server saw nothing of the request,
`UpstreamLost` that it broke off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from sparkd.adapters.engine.transport import (
    Exchange,
    LocalTransport,
    Sink,
    Timeouts,
    TransportError,
)
from sparkd.core.engine.response_filter import content_type
from sparkd.core.errors import UpstreamLost
from sparkd.core.json.spliced import Payload
from sparkd.core.observed import Endpoint

_CONNECT_TIMEOUT_S = 5.0
"""A local server accepts at once; a full listen queue is the only reason to wait."""
_HEALTH_TIMEOUT_S = 5.0
_HEALTH_LIMIT_BYTES = 64 << 10
"""Engines answer with nothing or with a short object."""
_SEND_TIMEOUT_S = 60.0
# No read timeout: a model may think for long before its first token, and its process is watched,
# so its death is not missed.
_TIMEOUTS = Timeouts(connect_s=_CONNECT_TIMEOUT_S, write_s=_SEND_TIMEOUT_S)


class ConnectFailed(UpstreamLost):
    """The server could not be reached: it saw nothing of the request."""

    code = "upstream_unreachable"
    lasting = False


class Answer:
    """A response whose head has arrived; its body is poured on, or read by iterating `chunks`."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.status = exchange.answer.status
        self.headers: list[tuple[bytes, bytes]] = exchange.answer.headers
        """Names in lower case."""

    @property
    def content_type(self) -> str:
        return content_type(self.headers).lower()

    @property
    def whole(self) -> bool:
        """Whether all of it has arrived."""
        return self._exchange.answer.whole

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing but the end of the connection tells that it is whole."""
        return self._exchange.answer.until_close

    def at_hand(self) -> bytes:
        """What has arrived of the body and was not taken yet."""
        return self._exchange.answer.take()

    async def next(self) -> bytes:
        """More of the body as it arrives; nothing at its end. Raises UpstreamLost."""
        try:
            return await self._exchange.next()
        except TransportError as error:
            raise _broken_off(error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, undecoded. Raises UpstreamLost when the server breaks off."""
        while chunk := await self.next():
            yield chunk

    async def read(self, limit_bytes: int) -> tuple[bytes, bool]:
        """As much of the body as the limit allows, and whether that is all of it.

        Raises UpstreamLost.
        """
        taken = bytearray()
        async for chunk in self.chunks():
            taken += chunk
            if len(taken) > limit_bytes:
                return bytes(taken[:limit_bytes]), False
        return bytes(taken), True

    async def pour(self, sink: Sink) -> None:
        """Hand the rest of the body on as it arrives. Raises UpstreamLost, and as the sink does."""
        try:
            await self._exchange.pour(sink)
        except TransportError as error:
            raise _broken_off(error) from error

    async def close(self) -> None:
        """Done with it; an unread rest cancels the request at the server."""
        await self._exchange.close()


def _broken_off(error: TransportError) -> UpstreamLost:
    return UpstreamLost(
        f"the model broke off its answer: {error}",
        hint="sudo sparkctl logs MODEL tells why it ended; then send the request again",
    )


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole response that sparkd itself asked for."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class EngineClient:
    """The server of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        if endpoint.socket is not None:
            self._host = "model"
            self._transport = LocalTransport(str(endpoint.socket))
        else:
            self._host = f"127.0.0.1:{endpoint.port}"
            self._transport = LocalTransport(("127.0.0.1", endpoint.port or 0))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def healthy(self, timeout_s: float = _HEALTH_TIMEOUT_S) -> bool:
        """Whether the endpoint's health path answers 200 in time."""
        try:
            told = await self.fetch(
                self.endpoint.health, limit_bytes=_HEALTH_LIMIT_BYTES, timeout_s=timeout_s
            )
        except UpstreamLost:
            return False
        return told.status == HTTPStatus.OK

    async def fetch(
        self, target: str, *, limit_bytes: int, timeout_s: float, post: bytes | None = None
    ) -> Fetched:
        """One small response for sparkd itself, whole; a POST of JSON if there is a body.

        The limits are for all of it, connection and head included, so no server can hold the
        caller or its memory. Raises UpstreamLost, and nothing else.
        """
        method = "GET" if post is None else "POST"
        headers = {} if post is None else {"content-type": "application/json"}
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self.send(method, target, headers, post or b"")
                try:
                    body, whole = await answer.read(limit_bytes)
                finally:
                    await answer.close()
        except TimeoutError:
            raise UpstreamLost(
                f"the model's server did not answer {target} within {timeout_s:g} s",
                hint="sudo sparkctl logs MODEL",
            ) from None
        if not whole:
            raise UpstreamLost(
                f"the model's server answered {target} with more than {limit_bytes} bytes",
                hint="sudo sparkctl logs MODEL",
            )
        return Fetched(answer.status, body)

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: Payload
    ) -> Answer:
        """Send a request; returns when the answer's head is there.

        Raises ConnectFailed or UpstreamLost.
        """
        named = [*headers.items(), ("host", self._host)]
        try:
            exchange = await self._transport.send(method, target, named, body, _TIMEOUTS)
        except TransportError as error:
            if error.unseen:
                raise ConnectFailed(
                    f"the model's server at {self.endpoint} does not accept connections: {error}",
                    hint="sudo sparkctl logs MODEL",
                ) from error
            raise UpstreamLost(
                f"the model broke off before it answered: {error}",
                hint="sudo sparkctl logs MODEL tells why it ended; then send the request again",
            ) from error
        return Answer(exchange)

    async def close(self) -> None:
        await self._transport.close()
