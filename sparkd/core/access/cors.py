# SPDX-License-Identifier: Apache-2.0
"""The web pages that may use the gateway from a browser: the origins of `cors_origins`.

An origin is what a browser sends as `Origin`: scheme, host and port. Nothing is allowed that has
not a key as well: cookies and other credentials of browsers are never asked for.
"""

from __future__ import annotations

import functools
import re

ORIGIN = (
    r"\*|null|file://"
    r"|[a-z][a-z0-9+.-]*://(?:\*|(?:\*\.)?[A-Za-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?:[0-9]{1,5}|\*))?"
)
"""What may stand in `cors_origins`."""
EXPOSED = (
    *("content-length", "content-range", "retry-after", "x-should-retry", "x-request-id"),
    *("x-sparkd-model", "x-sparkd-queue-ms", "x-sparkd-load-ms"),
    *("x-busy-model", "x-model-uptime-sec", "x-model-idle-sec"),
    *("x-time-until-release-sec", "x-model-will-auto-stop"),
)
"""The headers of an answer that a page may read."""
_MAX_AGE_S = 600
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\s*,\s*[A-Za-z0-9_-]{1,64}){0,63}")


@functools.lru_cache(maxsize=128)
def is_allowed(origins: tuple[str, ...], origin: str) -> bool:
    return any(_pattern(allowed).fullmatch(origin) for allowed in origins)


def answer_headers(origin: str) -> dict[str, str]:
    """For an answer to a page of an allowed origin."""
    return {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": ", ".join(EXPOSED),
    }


def preflight_headers(origin: str, methods: str, wanted: str | None) -> dict[str, str]:
    """For the question of a browser whether a page of an allowed origin may ask what it wants.

    Whatever headers it names are allowed, those of client libraries (`x-stainless-*`) among them:
    what they may do is the key's matter.
    """
    headers = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": methods,
        "access-control-max-age": str(_MAX_AGE_S),
    }
    if wanted and _HEADER_NAMES.fullmatch(wanted.strip()):
        headers["access-control-allow-headers"] = wanted.strip()
    return headers


@functools.cache
def _pattern(allowed: str) -> re.Pattern[str]:
    if allowed == "*":
        return re.compile(".+")
    if allowed == "null":
        return re.compile("null")
    scheme, _, rest = allowed.partition("://")
    host, any_port, _ = rest.partition(":*")
    if host == "*":
        escaped = r"[^\s/]+"
    elif host.startswith("*."):
        escaped = rf"(?:[a-z0-9_-]+\.)+{re.escape(host[2:].lower())}"
    else:
        escaped = re.escape(host.lower())
    port = "(?::[0-9]{1,5})?" if any_port else ""
    return re.compile(f"{re.escape(scheme)}://{escaped}{port}")
