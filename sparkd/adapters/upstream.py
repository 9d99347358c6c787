# SPDX-License-Identifier: Apache-2.0
"""HTTP to a model's own server: its health, a request, its answer as it comes.

Nothing is decided here: `ConnectFailed` means that the server saw nothing of the request,
`UpstreamLost` that it broke off.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

import httpx

from sparkd.adapters.transport import Exchange, LocalTransport, Sink
from sparkd.core.errors import UpstreamLost
from sparkd.core.model import Endpoint
from sparkd.core.spliced import Payload

_CONNECT_TIMEOUT_S = 5.0
"""A local server accepts at once; a full listen queue is the only reason to wait."""
_HEALTH_TIMEOUT_S = 5.0
_SEND_TIMEOUT_S = 60.0
# No read timeout: a model may think for long before its first token, and its process is watched,
# so its death is not missed.
_TIMEOUT = httpx.Timeout(connect=_CONNECT_TIMEOUT_S, read=None, write=_SEND_TIMEOUT_S, pool=None)


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
        named = [value for name, value in self.headers if name == b"content-type"]
        return b", ".join(named).decode("latin-1")

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
        except httpx.HTTPError as error:
            raise _broken_off(error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, undecoded. Raises UpstreamLost when the server breaks off."""
        while chunk := await self.next():
            yield chunk

    async def pour(self, sink: Sink) -> None:
        """Hand the rest of the body on as it arrives. Raises UpstreamLost, and as the sink does."""
        try:
            await self._exchange.pour(sink)
        except httpx.HTTPError as error:
            raise _broken_off(error) from error

    async def close(self) -> None:
        """Done with it; an unread rest cancels the request at the server."""
        await self._exchange.aclose()


def _broken_off(error: httpx.HTTPError) -> UpstreamLost:
    return UpstreamLost(
        f"the model broke off its answer: {type(error).__name__}",
        hint="sudo sparkctl logs MODEL tells why it ended; then send the request again",
    )


class Upstream:
    """The server of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        if endpoint.socket is not None:
            self._host = "model"
            self._transport = LocalTransport(str(endpoint.socket))
        else:
            self._host = f"127.0.0.1:{endpoint.port}"
            self._transport = LocalTransport(("127.0.0.1", endpoint.port or 0))

    async def healthy(self) -> bool:
        """Whether the endpoint's health path answers 200."""
        timeout = httpx.Timeout(_HEALTH_TIMEOUT_S).as_dict()
        request = httpx.Request(
            "GET", f"http://{self._host}{self.endpoint.health}", extensions={"timeout": timeout}
        )
        try:
            response = await self._transport.handle_async_request(request)
            async with contextlib.aclosing(response):
                await response.aread()
        except httpx.HTTPError:
            return False
        return response.status_code == httpx.codes.OK

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: Payload
    ) -> Answer:
        """Send a request; returns when the answer's head is there.

        Raises ConnectFailed or UpstreamLost.
        """
        named = [*headers.items(), ("host", self._host)]
        try:
            exchange = await self._transport.send(method, target, named, body, _TIMEOUT)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ConnectFailed(
                f"the model's server at {self.endpoint} does not accept connections: {error}",
                hint="sudo sparkctl logs MODEL",
            ) from error
        except httpx.HTTPError as error:
            raise UpstreamLost(
                f"the model broke off before it answered: {type(error).__name__}",
                hint="sudo sparkctl logs MODEL tells why it ended; then send the request again",
            ) from error
        return Answer(exchange)

    async def close(self) -> None:
        await self._transport.aclose()
