# SPDX-License-Identifier: Apache-2.0
"""Requests and responses as handlers see them, and the routes that lead to handlers.

Handlers know no other web framework than this module. A `Request` wraps Sanic's; it lives as long
as the call of its handler.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sanic import HTTPResponse
from sanic import Request as SanicRequest
from sanic.compat import Header
from sanic.exceptions import BadRequest
from sanic.response import BaseHTTPResponse

from sparkd.core.access.api_keys import ApiKey
from sparkd.core.access.auth import Access
from sparkd.core.errors import RequestError
from sparkd.gateway.http.protocol import HttpCycle
from sparkd.gateway.http.request_id import request_id

READ = ("GET", "HEAD")
"""The methods of everything that can be read: HEAD has a response wherever GET has one."""
JSON = "application/json"

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class Response:
    """A whole response, not sent yet."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: str | bytes = b"",
        *,
        status: int = 200,
        content_type: str = JSON,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers

    def for_sanic(self) -> HTTPResponse:
        return HTTPResponse(
            self.body, status=self.status, headers=self.headers, content_type=self.content_type
        )


def json_response(value: object, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(value), headers=headers)


class ResponseStream:
    """A response whose head is sent and whose body follows in pieces."""

    __slots__ = ("_response",)

    def __init__(self, response: BaseHTTPResponse) -> None:
        self._response = response

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Send a piece; wait first while the client has not taken the pieces before.

        Raises asyncio.CancelledError, as `ClientStalled` for a client that takes next to nothing.
        """
        await self._response.send(data, end_stream=end)


class Request:
    """One request. Header names are found in any case; paths are canonical."""

    __slots__ = ("_sanic",)

    def __init__(self, sanic: SanicRequest) -> None:
        self._sanic = sanic

    @property
    def method(self) -> str:
        return self._sanic.method

    @property
    def path(self) -> str:
        return self._sanic.path

    @property
    def headers(self) -> Header:
        return self._sanic.headers

    @property
    def query(self) -> dict[str, str]:
        """The arguments of the query string; of a repeated one the first."""
        return {name: str(self._sanic.args.get(name)) for name in self._sanic.args}

    @property
    def address(self) -> str:
        """The client's address, empty if there is none."""
        return str(self._sanic.ip or "")

    @property
    def id(self) -> str:
        """The id of this request, the same one at every call."""
        return request_id(self._sanic)

    @property
    def context(self) -> Any:  # noqa: ANN401 (the server does not know the gateway)
        """The object that the server was created with."""
        return self._sanic.app.ctx.context

    @property
    def access(self) -> Access:
        """The access that the route requires."""
        route = self._sanic.route
        access: Access = getattr(route.ctx, "access", Access.ADMIN) if route else Access.ADMIN
        return access

    @property
    def key(self) -> ApiKey | None:
        """The key that the request was admitted with, or None before that."""
        return getattr(self._sanic.ctx, "key", None)

    def admit(self, key: ApiKey) -> None:
        """Note the key, and take the connection off the unauthenticated ones."""
        self._sanic.ctx.key = key
        self.cycle.admit()

    @property
    def cycle(self) -> HttpCycle:
        """The connection's side of the request: its body, and the state of its client."""
        return self._sanic.stream  # type: ignore[return-value]  # It is all we serve.

    async def body_part(self, within_s: float) -> bytes | None:
        """A piece of the body; nothing at its end. Raises TimeoutError and RequestError."""
        try:
            if self.cycle.body_is_at_hand():
                return await self.cycle.read()
            async with asyncio.timeout(within_s):
                return await self.cycle.read()
        except BadRequest as error:
            raise RequestError(str(error), code="bad_request") from None

    async def respond(
        self, status: int = 200, headers: Headers = (), content_type: str | None = None
    ) -> ResponseStream:
        """Send the head of a response whose body follows."""
        head = HTTPResponse(status=status, headers=Header(headers), content_type=content_type)
        response = await self._sanic.respond(head)
        assert response is not None
        return ResponseStream(response)

    def abort(self) -> None:
        """Break the connection off."""
        transport: asyncio.Transport = self._sanic.transport  # type: ignore[assignment]
        transport.abort()


Handler = Callable[..., Awaitable[Response | None]]
"""Takes the request and the parts of its path by name; None if it has responded by a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path, its methods, and the handler; the first line of its docstring is its summary."""

    path: str
    handler: Handler
    access: Access
    methods: Sequence[str] = READ
    answers: str = JSON
    """The content type of its responses."""
    name: str | None = None
    reads_body: bool = False
    """The handler reads the body itself."""
