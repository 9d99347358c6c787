# SPDX-License-Identifier: Apache-2.0
"""The door: no handler but /healthz does anything before this lets the request in."""

from __future__ import annotations

from sanic import Request

from sparkd.core import auth
from sparkd.web.context import Context


def admitted(request: Request) -> Context:
    """The context, for a request with a right key. Raises Unauthorized or Misconfigured."""
    context: Context = request.app.ctx.sparkd
    context.require_usable()
    auth.check(context.keys, request.headers.get("authorization"), request.headers.get("x-api-key"))
    return context
