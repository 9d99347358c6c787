# SPDX-License-Identifier: Apache-2.0
"""HTTP to a model's own server; the only httpx code.

One client an endpoint, kept for its connections. Nothing is retried and nothing decided here:
`ConnectFailed` means that the server saw nothing of the request, `UpstreamLost` that it broke off.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

import httpx

from sparkd.core.errors import UpstreamLost
from sparkd.core.model import Endpoint

_CONNECT_TIMEOUT_S = 5.0
"""A local server accepts at once; a full listen queue is the only reason to wait."""
_HEALTH_TIMEOUT_S = 5.0
_SEND_TIMEOUT_S = 60.0


class ConnectFailed(UpstreamLost):
    """The server could not be reached: it saw nothing of the request."""

    code = "upstream_unreachable"


class Answer:
    """A response whose head has arrived; its body is read by iterating `chunks`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: list[tuple[bytes, bytes]] = list(response.headers.raw)

    @property
    def content_type(self) -> str:
        return str(self._response.headers.get("content-type", ""))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, undecoded. Raises UpstreamLost when the server breaks off."""
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise UpstreamLost(
                f"the model broke off its answer: {type(error).__name__}",
                hint="send the request again; sparkctl logs MODEL tells why it ended",
            ) from error

    async def close(self) -> None:
        """Done with it; an unread rest cancels the request at the server."""
        await self._response.aclose()


class Upstream:
    """The server of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        if endpoint.socket is not None:
            base_url, transport = (
                "http://model",
                httpx.AsyncHTTPTransport(uds=str(endpoint.socket), limits=_LIMITS),
            )
        else:
            base_url, transport = (
                f"http://127.0.0.1:{endpoint.port}",
                httpx.AsyncHTTPTransport(limits=_LIMITS),
            )
        # No read timeout: a model may think for long before its first token, and its process is
        # watched, so its death is not missed.
        self._client = httpx.AsyncClient(
            base_url=base_url,
            transport=transport,
            timeout=httpx.Timeout(
                connect=_CONNECT_TIMEOUT_S, read=None, write=_SEND_TIMEOUT_S, pool=None
            ),
        )

    async def healthy(self) -> bool:
        """Whether GET /health answers 200."""
        try:
            response = await self._client.get("/health", timeout=_HEALTH_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        return response.status_code == httpx.codes.OK

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Send a request; returns when the answer's head is there.

        Raises ConnectFailed or UpstreamLost.
        """
        request = self._client.build_request(method, target, headers=dict(headers), content=body)
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ConnectFailed(
                f"the model's server at {self.endpoint} does not accept connections: {error}",
                hint="sparkctl logs MODEL",
            ) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise UpstreamLost(
                f"the model broke off before it answered: {type(error).__name__}",
                hint="send the request again; sparkctl logs MODEL tells why it ended",
            ) from error
        return Answer(response)

    async def close(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await self._client.aclose()


_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=256)
