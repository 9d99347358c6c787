# SPDX-License-Identifier: Apache-2.0
"""The id by which a client and the journal name the same request; engines get one of their own.

The client's own `x-request-id` if it is one plain word, else one that is drawn once.
"""

from __future__ import annotations

import re
import secrets

from sanic import Request
from sanic.response import BaseHTTPResponse

HEADER = "x-request-id"
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(request: Request) -> str:
    """The id of this request, the same one at every call."""
    known: str | None = getattr(request.ctx, "request_id", None)
    if known is None:
        given = request.headers.get(HEADER, "")
        known = given if _PLAIN.fullmatch(given) else secrets.token_bytes(16).hex()
        request.ctx.request_id = known
    return known


def name_answer(request: Request, response: BaseHTTPResponse) -> None:
    """Put the id on an answer, errors included."""
    response.headers.setdefault(HEADER, request_id(request))
