# SPDX-License-Identifier: Apache-2.0
"""/openapi.json: what the router says of itself, handed to `core.http.openapi`.

A route tells what is particular about it where it is added: `ctx_answers`, if its answer is not
JSON. Its summary is the first line of its handler's docstring.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sanic import HTTPResponse, Request, Sanic

from sparkd._version import __version__
from sparkd.core.access.auth import Access
from sparkd.gateway.admission import access_of
from sparkd.gateway.context import READ

if TYPE_CHECKING:
    from sparkd.core.http.openapi import Path


def add_routes(app: Sanic[Any, Any]) -> None:
    access = Access.OPEN  # It tells nothing about this host.
    app.add_route(show_description, "/openapi.json", methods=READ, ctx_access=access)


async def show_description(request: Request) -> HTTPResponse:
    """This description. Needs no key, wakes nothing."""
    # Nearly no daemon is ever asked for it, so it is neither loaded nor kept before.
    from sparkd.core.http.openapi import describe

    described = describe(paths(request.app), __version__)
    return HTTPResponse(json.dumps(described), content_type="application/json")


def paths(app: Sanic[Any, Any]) -> Iterator[Path]:
    """Every route of the router, each method for itself; HEAD is like GET and goes unmentioned."""
    from sparkd.core.http.openapi import Path

    for route in app.router.routes:
        path = "/" + re.sub(r"<(\w+?)(?:_id)?(?::\w+)?>", r"{\1}", route.path)
        for method in sorted(route.methods - {"HEAD"}):
            yield Path(
                method=method,
                path=path,
                summary=(inspect.getdoc(route.handler) or "").partition("\n")[0],
                needs_key=access_of(route) is not Access.OPEN,
                answers=getattr(route.ctx, "answers", "application/json"),
            )
