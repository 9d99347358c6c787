# SPDX-License-Identifier: Apache-2.0
"""The Sanic application: its limits, its routes, and the one place where errors become answers."""

from __future__ import annotations

import json
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import MethodNotAllowed, SanicException
from sanic.handlers import ErrorHandler
from sanic.response import BaseHTTPResponse

from sparkd.core.access.auth import Access
from sparkd.core.errors import NotFound, RequestError, SparkdError
from sparkd.core.http.routing import route, unknown_path
from sparkd.gateway.admission import is_admin, visibility_of
from sparkd.gateway.context import READ, Context
from sparkd.gateway.handlers import admin, description, events, inference, logs, metrics, page
from sparkd.gateway.http import cors
from sparkd.gateway.http.protocol import HEAD_S, KEEP_ALIVE_S, ClientRequest
from sparkd.gateway.http.request_id import name_answer
from sparkd.gateway.render import error_body, error_headers, shape_of, unexpected

_NEVER_S = 10 * 365 * 24 * 3600
"""Sanic limits the time to an answer; a load may take an hour, so `load_timeout` limits it."""


def create_app(context: Context) -> Sanic[Any, Any]:
    """The application for one daemon. Sanic keeps names of apps, so there is one a process."""
    # Sanic would set a start method for worker processes that it never starts here.
    Sanic.START_METHOD_SET = True
    app: Sanic[Any, Any] = Sanic(
        "sparkd",
        configure_logging=False,
        error_handler=_Errors(),
        request_class=ClientRequest,
        dumps=json.dumps,
    )
    app.config.ACCESS_LOG = False
    app.config.RESPONSE_TIMEOUT = _NEVER_S
    app.config.KEEP_ALIVE_TIMEOUT = KEEP_ALIVE_S
    app.config.REQUEST_TIMEOUT = HEAD_S
    app.ctx.sparkd = context
    app.ctx.unauthenticated, app.ctx.pacing = context.unauthenticated, context.pacing
    app.ctx.cors_origins = lambda: context.config.settings.cors_origins
    app.add_route(
        healthz,
        "/healthz",
        methods=READ,
        ctx_access=Access.OPEN,
        ctx_answers="text/plain",
    )
    inference.add_routes(app)
    admin.add_routes(app)
    description.add_routes(app)
    events.add_routes(app)
    metrics.add_routes(app)
    logs.add_routes(app)
    page.add_routes(app)
    app.register_middleware(_finish, "response")
    return app


async def _finish(request: Request, response: BaseHTTPResponse) -> None:
    """What every answer has, errors and streams included."""
    name_answer(request, response)
    if "origin" in request.headers:
        cors.allow(request, response)


async def healthz(request: Request) -> HTTPResponse:
    """Alive. Needs no key, wakes nothing, holds nothing."""
    return HTTPResponse("ok\n", content_type="text/plain; charset=utf-8")


class _Errors(ErrorHandler):
    """Answers every exception that reaches Sanic, its own among them."""

    def default(self, request: Request, exception: Exception) -> HTTPResponse:
        if isinstance(exception, MethodNotAllowed) and request.method == "OPTIONS":
            return cors.options(request, exception)
        error = visibility_of(request).error(_as_ours(request, exception))
        shape = shape_of(request.path, request.headers)
        return HTTPResponse(
            error_body(error, shape, admin=is_admin(request)),
            status=error.http_status,
            headers=error_headers(error),
            content_type="application/json",
        )


def _as_ours(request: Request, exception: Exception) -> SparkdError:
    if isinstance(exception, SparkdError):
        return exception
    if isinstance(exception, SanicException) and exception.status_code < 500:
        return _from_sanic(request, exception)
    return unexpected(exception)


def _from_sanic(request: Request, exception: SanicException) -> SparkdError:
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


def _wrong_method(request: Request, refused: MethodNotAllowed) -> SparkdError:
    """A path that is not asked this way. Of those that take a POST some do not exist at all."""
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
