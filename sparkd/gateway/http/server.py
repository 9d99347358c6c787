# SPDX-License-Identifier: Apache-2.0
"""The server: a Sanic application for the routes, its sockets, and its end.

docs/decisions/0009-sanic-in-one-package.md says what is used of Sanic and what is overridden.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from sanic import HTTPResponse, Sanic
from sanic import Request as SanicRequest
from sanic.exceptions import MethodNotAllowed, SanicException
from sanic.handlers import ErrorHandler
from sanic.response import BaseHTTPResponse
from sanic.server.async_server import AsyncioServer

from sparkd.core.errors import HostError, NotFound, RequestError, SparkdError
from sparkd.core.http.routing import route, unknown_path
from sparkd.gateway.http import client_link, cors
from sparkd.gateway.http.connections import Connections
from sparkd.gateway.http.messages import Handler, Request, Response, Route
from sparkd.gateway.http.open_requests import OpenRequests
from sparkd.gateway.http.pacing import Pacing
from sparkd.gateway.http.protocol import HEAD_S, KEEP_ALIVE_S, ClientProtocol, ClientRequest
from sparkd.gateway.http.request_id import name_answer
from sparkd.gateway.http.unauthenticated import Unauthenticated

_BACKLOG = 4096
"""As sparkd.socket has it: listen(2) sets it again, and connections wait there over a restart."""
_ACCEPT_TRIES = 16
"""Connections taken in one turn of the loop. asyncio makes as many tries, and complains of each,
when there are no descriptors left: with the backlog that were 4096 a second (Python 3.13)."""
_NEVER_S = 10 * 365 * 24 * 3600
"""Sanic limits the time to a response; a load may take an hour, so `load_timeout` limits it."""

OnError = Callable[[Request, BaseException], Response]
"""The response to an exception that a handler raised, or that stands for a wrong request."""


class Server:
    """One server a process: Sanic keeps the names of applications."""

    def __init__(
        self,
        routes: Sequence[Route],
        context: object,
        on_error: OnError,
        *,
        cors_origins: Callable[[], Sequence[str]],
        body_limit_bytes: Callable[[], int],
        unauthenticated: Unauthenticated,
        pacing: Pacing,
    ) -> None:
        """`context` is the `Request.context` of every request."""
        # Sanic would set a start method for worker processes that it never starts here.
        Sanic.START_METHOD_SET = True
        self.app: Sanic[Any, Any] = Sanic(
            "sparkd",
            configure_logging=False,
            error_handler=_Errors(on_error),
            request_class=ClientRequest,
            dumps=json.dumps,
        )
        self.app.config.ACCESS_LOG = False
        self.app.config.RESPONSE_TIMEOUT = _NEVER_S
        self.app.config.KEEP_ALIVE_TIMEOUT = round(KEEP_ALIVE_S)
        self.app.config.REQUEST_TIMEOUT = HEAD_S  # type: ignore[assignment]  # Tests make it short.
        # By default Sanic cuts the end of a last response 5 s after it was written.
        self.app.config.GRACEFUL_TCP_CLOSE_TIMEOUT = client_link.STALL_S
        self.app.ctx.context = context
        self.app.ctx.cors_origins, self.app.ctx.body_limit_bytes = cors_origins, body_limit_bytes
        self.app.ctx.unauthenticated, self.app.ctx.pacing = unauthenticated, pacing
        for one in routes:
            self.app.add_route(
                _called(one.handler),
                one.path,
                methods=one.methods,
                name=one.name,
                stream=one.reads_body,
                ctx_access=one.access,
            )
        self.app.register_middleware(_finish, "response")
        self._servers: list[AsyncioServer] = []

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Serve these sockets. Not by `Sanic.run`: docs/decisions/0005-no-sanic-run.md."""
        for listening in sockets:
            server = await self.app.create_server(
                sock=listening, protocol=ClientProtocol, backlog=_ACCEPT_TRIES
            )
            if server is None:
                raise HostError(f"Sanic made no server for {listening}")
            if not self._servers:
                # Once an application, however many sockets it has.
                await server.startup()
                await server.before_start()
            await server.start_serving()
            listening.listen(_BACKLOG)
            self._servers.append(server)

    def stop_accepting(self) -> None:
        """Leave connections that were not accepted in the backlog of systemd's socket."""
        for server in self._servers:
            if server.server is not None:
                server.server.close()

    async def drained(self, requests: OpenRequests, within_s: float) -> bool:
        """Whether every request had its response within that time."""
        return await Connections(self._servers).drained(requests, within_s)

    def abort(self) -> None:
        """Cut the connections that are left."""
        Connections(self._servers).abort()


def _called(handler: Handler) -> Callable[..., Any]:
    """The handler as Sanic calls it."""

    @wraps(handler)
    async def call(request: SanicRequest, **parts: str) -> HTTPResponse | None:
        response = await handler(Request(request), **parts)
        return None if response is None else response.for_sanic()

    return call


async def _finish(request: SanicRequest, response: BaseHTTPResponse) -> None:
    """Add what every response has, errors and streams included."""
    name_answer(request, response)
    if "origin" in request.headers:
        cors.allow(request, response)


class _Errors(ErrorHandler):
    """The response to every exception that reaches Sanic, its own among them."""

    def __init__(self, on_error: OnError) -> None:
        super().__init__()
        self._on_error = on_error

    def default(self, request: SanicRequest, exception: Exception) -> HTTPResponse:
        if isinstance(exception, MethodNotAllowed) and request.method == "OPTIONS":
            return cors.options(request, exception)
        error: Exception = exception
        if isinstance(exception, SanicException) and exception.status_code < 500:
            error = _from_sanic(request, exception)
        return self._on_error(Request(request), error).for_sanic()


def _from_sanic(request: SanicRequest, exception: SanicException) -> SparkdError:
    if exception.status_code == 404:
        return unknown_path(request.path)
    if isinstance(exception, MethodNotAllowed):
        return _wrong_method(request, exception)
    if request.head:
        text = f"{request.method} {request.path[:200]}: {exception}"
        error = RequestError(text, hint="GET /v1/models lists the models", code="bad_request")
    else:
        # Sanic's stand-in for a request whose head could not be read.
        hint = "plain HTTP/1.1 is spoken here, no TLS and no HTTP/2"
        error = RequestError(str(exception), hint=hint, code="bad_request")
    error.http_status = exception.status_code
    return error


def _no_websocket() -> SparkdError:
    """The status by which Codex finds out that it has to POST."""
    error = RequestError(
        "sparkd does not speak WebSocket", hint="POST /v1/responses", code="bad_request"
    )
    error.http_status = 426
    error.headers |= {"upgrade": "HTTP/1.1", "connection": "upgrade"}
    return error


def _wrong_method(request: SanicRequest, refused: MethodNotAllowed) -> SparkdError:
    """The error of a path that lacks the method; some paths exist for no method at all."""
    if request.path == "/v1/responses" and "upgrade" in request.headers:
        return _no_websocket()
    methods = cors.allowed_methods(refused)
    if request.path.startswith("/v1/") and "GET" not in methods:
        try:
            route(request.path)
        except NotFound as missing:
            return missing
    error = RequestError(
        f"{request.method} is not for {request.path[:200]!r}",
        hint=f"it takes {methods}",
        code="bad_request",
    )
    error.http_status = refused.status_code
    error.headers["allow"] = methods
    return error
