# SPDX-License-Identifier: Apache-2.0
"""The canonical form of a request's path, before the router sees it.

Clients join a base URL and a path in many ways: with a slash too many, with `/v1` twice or not at
all, with the prefix of another vendor. `canonical` gives each of them the one path that the
gateway serves. It decodes nothing and resolves no dots, and every path that it makes is one of the
allow-list in `routing`.
"""

from __future__ import annotations

import re

from sparkd.core.http.routing import OPERATIONS

_ALIASES = {"/health": "/healthz", "/v1/health": "/healthz", "/v2/rerank": "/v1/rerank"}
"""Names that vLLM, llama.cpp and Cohere have for the same."""
_VENDORS = ("/openai", "/anthropic")
"""Where other services have these APIs; some clients append it to every base URL."""
_NAMES = "|".join(map(re.escape, sorted(OPERATIONS, key=len, reverse=True)))
_SERVED = frozenset(f"/v1/{name}".encode() for name in OPERATIONS)
"""The paths of most requests, for which nothing has to be computed."""
_ORIGIN = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_SLASHES = re.compile(r"/{2,}")
_DEPLOYMENT = re.compile(rf"/deployments/([^/]+)/({_NAMES})")
_UNVERSIONED = re.compile(rf"/(?:{_NAMES}|models|responses/[^/]+(?:/[^/]+)?)")
_ONE_MODEL = re.compile(r"/models/.+(?<!/load)(?<!/unload)(?<!/pin)(?<!/unpin)")
_VERSION_TWICE = re.compile(r"(?:/v1){2,}(?=/|$)")
_VERSION_AFTER_MODEL = re.compile(rf"(/v1/.+)/v1(/(?:{_NAMES}))")


def canonical(target: bytes) -> bytes:
    """The target of a request with its path in canonical form; origin and query stay."""
    if target in _SERVED:
        return target
    found = _ORIGIN.match(target)
    start = found.end() if found else 0
    raw, mark, query = target[start:].partition(b"?")
    if not raw.startswith(b"/"):
        return target
    # Latin-1 gives every byte a character, and back.
    path = canonical_path(raw.decode("latin-1")).encode("latin-1")
    return target[:start] + path + mark + query


def canonical_path(path: str) -> str:
    """The path that the gateway serves for this one; itself where there is none."""
    path = _SLASHES.sub("/", path).rstrip("/") or "/"
    for vendor in _VENDORS:
        rest = path.removeprefix(vendor)
        deployment = _DEPLOYMENT.fullmatch(rest) if rest != path else None
        if deployment is not None:
            return f"/v1/{deployment[1]}/{deployment[2]}"
        if rest != path and (rest.startswith("/v1/") or _UNVERSIONED.fullmatch(rest)):
            path = rest
    path = _VERSION_TWICE.sub("/v1", path, count=1) if path.startswith("/v1/v1") else path
    path = _ALIASES.get(path, path)
    if _UNVERSIONED.fullmatch(path) or _ONE_MODEL.fullmatch(path):
        return f"/v1{path}"
    after_model = _VERSION_AFTER_MODEL.fullmatch(path)
    return after_model[1] + after_model[2] if after_model else path
