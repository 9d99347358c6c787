# SPDX-License-Identifier: Apache-2.0
"""The parts of a model server's response head that a client may see.

Pure. A client trusts the gateway with its key, and a browser trusts the gateway's origin, so the
rule is a list of permitted headers and of permitted statuses. Everything else stays here: a
redirect would send prompt and key elsewhere, a challenge would make a client drop its key, and a
cookie or `alt-svc` would outlive the response.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from sparkd.core.numbers import bounded_float, bounded_int

RETRY_AFTER_MAX_S: Final = 3600
"""The longest pause that a model server may ask a client for."""
_BODY_MAX: Final = 1 << 50
_PROCESSING_MAX_MS: Final = 1e9
_REFUSED: Final = frozenset({401, 402, 403, 407, 421, 426, 511})
"""Statuses about the key, the connection or the protocol, which are the gateway's alone."""
_TEXT: Final = re.compile(rb"[\x20-\x7e]{1,200}")
_MEDIA: Final = re.compile(
    r"(?:application/(?:json|problem\+json|x-ndjson|jsonl|octet-stream|x-subrip)"
    r"|text/(?:event-stream|plain|vtt|csv)"
    r"|audio/[a-z0-9.+-]{1,40}|video/[a-z0-9.+-]{1,40}|image/(?:png|jpeg|webp))"
    r"(?:\s*;.*)?",
    re.IGNORECASE,
)
_OTHER_MEDIA: Final = "application/octet-stream"
"""Instead of a type that a browser would run, such as HTML."""
_CODINGS: Final = frozenset({"identity", "gzip", "deflate", "br", "zstd"})
_CACHING: Final = frozenset({"no-cache", "no-store", "no-transform", "private"})
_VERSION: Final = re.compile(r"[0-9A-Za-z.-]{1,40}")


def passes(status: int) -> bool:
    """Whether a client may see a response with this status."""
    return (200 <= status < 300 or 400 <= status < 600) and status not in _REFUSED


def passed_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """The headers for the client; names are in lower case, and the first of a repeated one counts.

    `date`, `server` and `x-request-id` are the gateway's own.
    """
    passed: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1")
        rule = _RULES.get(name)
        if rule is None or name in passed or not _TEXT.fullmatch(raw_value):
            continue
        value = rule(raw_value.decode("ascii"))
        if value is not None:
            passed[name] = value
    return list(passed.items())


def content_type(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The type that a client is told, or an empty text."""
    return dict(passed_headers(headers)).get("content-type", "")


def _content_type(value: str) -> str:
    return value if _MEDIA.fullmatch(value) else _OTHER_MEDIA


def _content_length(value: str) -> str | None:
    length = bounded_int(value, most=_BODY_MAX)
    return None if length is None else str(length)


def _content_encoding(value: str) -> str | None:
    return value if value.lower() in _CODINGS else None


def _cache_control(value: str) -> str | None:
    wanted = {directive.strip().lower() for directive in value.split(",")}
    return value if wanted <= _CACHING else None


def _retry_after(value: str) -> str | None:
    seconds = bounded_int(value, most=RETRY_AFTER_MAX_S)
    return None if seconds is None else str(seconds)


def _processing_ms(value: str) -> str | None:
    return value if bounded_float(value, most=_PROCESSING_MAX_MS) is not None else None


def _version(value: str) -> str | None:
    return value if _VERSION.fullmatch(value) else None


_RULES: Final[dict[str, Callable[[str], str | None]]] = {
    "content-type": _content_type,
    "content-length": _content_length,
    "content-encoding": _content_encoding,
    "cache-control": _cache_control,
    "retry-after": _retry_after,
    "openai-processing-ms": _processing_ms,
    "openai-version": _version,
}
