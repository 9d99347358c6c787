# SPDX-License-Identifier: Apache-2.0
"""The HTTP application of the gateway: its routes, and the response to each error."""

from __future__ import annotations

from sparkd.core.access.auth import Access
from sparkd.core.errors import SparkdError
from sparkd.gateway.admission import is_admin, visibility_of
from sparkd.gateway.context import Context
from sparkd.gateway.handlers import admin, description, events, inference, logs, metrics, page
from sparkd.gateway.http.messages import Request, Response, Route
from sparkd.gateway.http.server import Server
from sparkd.gateway.render import error_body, error_headers, shape_of, unexpected


async def healthz(request: Request) -> Response:
    """Alive. Needs no key, wakes nothing, holds nothing."""
    return Response("ok\n", content_type="text/plain; charset=utf-8")


def routes() -> tuple[Route, ...]:
    """All routes, each with the access that it requires."""
    found: tuple[Route, ...] = (
        Route(path="/healthz", handler=healthz, access=Access.OPEN, answers="text/plain"),
        *inference.ROUTES,
        *admin.ROUTES,
        *events.ROUTES,
        *metrics.ROUTES,
        *logs.ROUTES,
        *page.ROUTES,
    )
    described = "/openapi.json"  # It tells nothing about this host.
    itself = Route(path=described, handler=description.handler(found), access=Access.OPEN)
    handler = description.handler((*found, itself))
    return (*found, Route(path=described, handler=handler, access=Access.OPEN))


def create_server(context: Context) -> Server:
    """The server of one daemon; one a process."""
    return Server(
        routes(),
        context,
        _on_error,
        cors_origins=lambda: context.config.settings.cors_origins,
        body_limit_bytes=lambda: context.config.settings.body_limit_bytes,
        unauthenticated=context.unauthenticated,
        pacing=context.pacing,
    )


def _on_error(request: Request, exception: BaseException) -> Response:
    error = exception if isinstance(exception, SparkdError) else unexpected(exception)
    error = visibility_of(request).error(error)
    shape = shape_of(request.path, request.headers)
    return Response(
        error_body(error, shape, admin=is_admin(request)),
        status=error.http_status,
        headers=error_headers(error),
    )
