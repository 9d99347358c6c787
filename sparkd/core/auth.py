# SPDX-License-Identifier: Apache-2.0
"""Who asks, and whether he may: from request headers to a key, before anything is started."""

from __future__ import annotations

from enum import StrEnum

from sparkd.core import apikeys
from sparkd.core.apikeys import ApiKey, Keyring
from sparkd.core.errors import Forbidden, Unauthorized

_HINT = "send 'Authorization: Bearer KEY'; 'sudo sparkctl key show' prints a key"


class Access(StrEnum):
    """What an endpoint asks of whoever calls it."""

    OPEN = "none"
    """Nothing."""
    ANY = "any"
    """A key, whatever its scopes: to read the state of things."""
    INFERENCE = "inference"
    ADMIN = "admin"


def presented(authorization: str | None, x_api_key: str | None) -> str:
    """The hash of the secret that a request carries. Raises Unauthorized when it carries none."""
    secret = _bearer(authorization) or (x_api_key or "").strip()
    if not secret:
        raise Unauthorized("the request carries no API key", hint=_HINT)
    # Whatever bytes a header held, two secrets that differ stay different.
    return apikeys.digest(secret.encode(errors="surrogatepass"))


def identify(ring: Keyring, digest: str, now: float) -> ApiKey:
    """The key of this hash, at this wall time. Raises Unauthorized, or why keys are missing.

    What the time of a look-up could tell is about the hash of what was sent, from which no way
    leads to a key: this is as good as a comparison in constant time, however many keys there are.
    """
    key = ring.keys.get(digest)
    if key is None:
        if ring.error is not None:
            raise ring.error
        # Never quote the key that was sent: it may be right elsewhere.
        raise Unauthorized("the API key is not one of this server's", hint=_HINT)
    if key.expires_at is not None and apikeys.parse_time(key.expires_at) <= now:
        raise Unauthorized(
            f"the API key {key.name!r} has expired, on {key.expires_at}",
            hint=f"sudo sparkctl key revoke {key.name}; sudo sparkctl key add {key.name}",
            code="expired_api_key",
        )
    return key


def require(key: ApiKey, access: Access) -> None:
    """Raise Forbidden when the key lacks the scope that is asked."""
    if access in (Access.OPEN, Access.ANY) or access.value in key.scopes:
        return
    raise Forbidden(
        f"the API key {key.name!r} lacks the scope {access}: it has "
        f"{', '.join(key.scopes) or 'none'}",
        hint=f"sudo sparkctl key add NAME --scope {access}",
        code="scope_missing",
    )


def require_model(key: ApiKey, model_id: str) -> None:
    """Raise Forbidden when the key is limited to other models."""
    if not key.may_use(model_id):
        raise Forbidden(
            f"the API key {key.name!r} may not use model {model_id!r}",
            hint="GET /v1/models lists those that it may use",
            code="model_forbidden",
            param="model",
        )


def _bearer(authorization: str | None) -> str:
    scheme, _, secret = (authorization or "").strip().partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""
