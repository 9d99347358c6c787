# SPDX-License-Identifier: Apache-2.0
"""Who may ask: from request headers to a yes or a clear no, before anything is started."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from sparkd.core.errors import Unauthorized

_HINT = "send 'Authorization: Bearer KEY'; 'sudo sparkctl key show' prints a key"


def check(keys: Iterable[str], authorization: str | None, x_api_key: str | None) -> None:
    """Raise Unauthorized unless the request carries one of the keys.

    Every key is compared, each in constant time, so the time taken tells nothing about them.
    """
    presented = _presented(authorization, x_api_key)
    if presented is None:
        raise Unauthorized("the request carries no API key", hint=_HINT)
    # Whatever bytes a header held, two keys that differ stay different.
    raw = presented.encode(errors="surrogatepass")
    matches = [hmac.compare_digest(raw, key.encode()) for key in keys]
    if not any(matches):
        # Never quote the key that was sent: it may be right elsewhere.
        raise Unauthorized("the API key is not one of this server's", hint=_HINT)


def _presented(authorization: str | None, x_api_key: str | None) -> str | None:
    if authorization:
        scheme, _, key = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return key.strip()
    return x_api_key.strip() if x_api_key and x_api_key.strip() else None
