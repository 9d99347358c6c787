# SPDX-License-Identifier: Apache-2.0
"""`/`: the status page, one document with all that it needs in it.

It is assembled from the files in `page/` on the first request, so there is no build step.
Its policy lets a browser run this very script, use this very style and talk to this gateway, and
nothing else. Needs no key: it shows nothing before its user enters one.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources

from sparkd.core.access.auth import Access
from sparkd.gateway.http.messages import Request, Response, Route, json_response

_STYLE = "<!--style-->"
_SCRIPT = "<!--script-->"


@dataclass(frozen=True, slots=True)
class Page:
    """The document, as text and as gzip, and the policy that fits it."""

    text: bytes
    packed: bytes
    policy: str


_PLACES = {"service": "sparkd", "api": "/v1", "health": "/healthz", "description": "/openapi.json"}


async def show_page(request: Request) -> Response:
    """The status page, for a browser; the places of the API, for a program."""
    accepted = request.headers.get("accept", "")
    if "application/json" in accepted and "text/html" not in accepted:
        return json_response(_PLACES, headers={"vary": "accept"})
    page = assembled()
    headers = {
        "content-security-policy": page.policy,
        "cache-control": "no-cache",
        "vary": "accept, accept-encoding",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cross-origin-opener-policy": "same-origin",
    }
    packed = "gzip" in request.headers.get("accept-encoding", "")
    if packed:
        headers["content-encoding"] = "gzip"
    return Response(
        page.packed if packed else page.text,
        headers=headers,
        content_type="text/html; charset=utf-8",
    )


@functools.cache
def assembled() -> Page:
    """The page, read once a process."""
    places = resources.files("sparkd.gateway") / "page"
    scripts = sorted(place.name for place in places.iterdir() if place.name.endswith(".js"))
    script = "".join((places / name).read_text(encoding="utf-8") for name in scripts)
    style = (places / "page.css").read_text(encoding="utf-8")
    document = (places / "page.html").read_text(encoding="utf-8")
    # Split, so that text in the style or the script is never taken for a placeholder.
    head, rest = document.split(_STYLE)
    body, end = rest.split(_SCRIPT)
    text = f"{head}{style}{body}{script}{end}".encode()
    return Page(text, gzip.compress(text, mtime=0), _policy(style, script))


def _policy(style: str, script: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


ROUTES = (Route(path="/", handler=show_page, access=Access.OPEN, answers="text/html"),)
