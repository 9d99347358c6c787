# SPDX-License-Identifier: Apache-2.0
"""`/openapi.json`: the routes of the gateway, handed to `core.http.openapi`.

The summary of a route is the first line of its handler's docstring.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sparkd._version import __version__
from sparkd.core.access.auth import Access
from sparkd.gateway.http.messages import Handler, Request, Response, Route, json_response

if TYPE_CHECKING:
    from sparkd.core.http.openapi import Path


def handler(routes: Sequence[Route]) -> Handler:
    """The handler that describes these routes and itself."""

    async def show_description(request: Request) -> Response:
        """This description. Needs no key, wakes no model."""
        # Few daemons ever serve it, so the module is loaded on the first request.
        from sparkd.core.http.openapi import describe

        return json_response(describe(paths(routes), __version__))

    return show_description


def paths(routes: Sequence[Route]) -> Iterator[Path]:
    """Each method of each route; HEAD is like GET and is left out."""
    from sparkd.core.http.openapi import Path

    for route in routes:
        path = re.sub(r"<(\w+?)(?:_id)?(?::\w+)?>", r"{\1}", route.path)
        for method in sorted({*route.methods} - {"HEAD"}):
            yield Path(
                method=method,
                path=path,
                summary=(inspect.getdoc(route.handler) or "").partition("\n")[0],
                needs_key=route.access is not Access.OPEN,
                answers=route.answers,
            )
