# SPDX-License-Identifier: Apache-2.0
"""Cross-origin requests of browsers: the headers that allow them, and OPTIONS.

OPTIONS has no route; it is handled where the router reports that a path lacks this method, so
other requests pay nothing for it.
"""

from __future__ import annotations

from sanic import HTTPResponse, Request
from sanic.exceptions import MethodNotAllowed
from sanic.response import BaseHTTPResponse

from sparkd.core.access import cors

_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


def allow(request: Request, response: BaseHTTPResponse) -> None:
    """Let the page read the response, if its origin is allowed."""
    origin = _allowed_origin(request)
    response.headers.setdefault("vary", "Origin")
    if origin is not None and "access-control-allow-origin" not in response.headers:
        response.headers.extend(cors.answer_headers(origin))


def options(request: Request, refused: MethodNotAllowed) -> HTTPResponse:
    """The methods of the path, and the response to a preflight. Needs no key."""
    methods = allowed_methods(refused)
    headers = {"allow": methods, "vary": _VARY}
    origin = _allowed_origin(request)
    if origin is not None and "access-control-request-method" in request.headers:
        wanted = request.headers.get("access-control-request-headers")
        headers |= cors.preflight_headers(origin, methods, wanted)
    return HTTPResponse(status=204, headers=headers)


def allowed_methods(refused: MethodNotAllowed) -> str:
    """The methods of a path that lacks the requested one."""
    known = str(dict(refused.headers or {}).get("Allow", ""))
    return ", ".join(sorted({*(one for one in known.split(", ") if one), "OPTIONS"}))


def _allowed_origin(request: Request) -> str | None:
    origin: str = request.headers.get("origin", "")
    return origin if cors.is_allowed(request.app.ctx.cors_origins(), origin) else None
