# SPDX-License-Identifier: Apache-2.0
"""Authentication and authorization: from request headers to a key, before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from sparkd.core.access import api_keys
from sparkd.core.access.api_keys import ApiKey, Keyring
from sparkd.core.errors import Forbidden, Unauthorized

_OTHER_SCHEMES = frozenset({"basic", "digest", "negotiate", "token", "apikey", "api-key"})
_HINT = "send 'Authorization: Bearer KEY'; 'sudo sparkctl key show' prints a key"


class Access(StrEnum):
    """The access that an endpoint requires."""

    OPEN = "none"
    """Nothing."""
    ANY = "any"
    """A key, whatever its scopes: to read the state of things."""
    INFERENCE = "inference"
    ADMIN = "admin"


def presented(
    authorization: str | None, x_api_key: str | None = None, api_key: str | None = None
) -> tuple[str, ...]:
    """The hashes of the secrets in a request's headers, in the order in which they are tried.

    Raises Unauthorized when there is none.
    """
    bearer, problem = _bearer(authorization)
    secrets = [one for one in (bearer, _stripped(x_api_key), _stripped(api_key)) if one]
    if not secrets:
        raise Unauthorized(f"the request carries no API key{problem}", hint=_HINT)
    # Two secrets that differ have different hashes, whatever bytes a header held.
    return tuple(api_keys.digest(secret.encode(errors="surrogatepass")) for secret in secrets)


def best_of(ring: Keyring, digests: Sequence[str], now: float) -> str:
    """The first of the hashes that opens something, or the one whose refusal says most."""
    known = [digest for digest in digests if digest in ring.keys]
    valid = (digest for digest in known if not _has_expired(ring.keys[digest], now))
    return next(valid, next(iter(known), digests[0]))


def identify(ring: Keyring, digest: str, now: float) -> ApiKey:
    """The key of this hash, at this wall time. Raises Unauthorized, or why keys are missing.

    The time of a look-up can only tell about the hash of the secret that was sent, and no way leads
    from there to a key. So this is as good as a comparison in constant time.
    """
    key = ring.keys.get(digest)
    if key is None:
        if ring.error is not None:
            raise ring.error
        # Never quote the key that was sent: it may be right elsewhere.
        raise Unauthorized(
            "the API key is not one of this server's",
            hint="ask the person who runs this server for a key; 'sudo sparkctl key show' "
            "prints one there",
            sent=True,
        )
    if _has_expired(key, now):
        raise Unauthorized(
            f"the API key {key.name!r} has expired, on {key.expires_at}",
            hint=f"sudo sparkctl key revoke {key.name}; sudo sparkctl key add {key.name}",
            code="expired_api_key",
            sent=True,
        )
    return key


def _has_expired(key: ApiKey, now: float) -> bool:
    return key.expires_at is not None and api_keys.parse_time(key.expires_at) <= now


def require(key: ApiKey, access: Access) -> None:
    """Raise Forbidden when the key lacks the scope that is asked."""
    if access in (Access.OPEN, Access.ANY) or access.value in key.scopes:
        return
    error = Forbidden(
        f"the API key {key.name!r} lacks the scope {access}: it has "
        f"{', '.join(key.scopes) or 'none'}",
        hint=f"sudo sparkctl key add NAME --scope {access}",
        code="scope_missing",
    )
    error.headers["www-authenticate"] = (
        f'Bearer realm="sparkd", error="insufficient_scope", scope="{access}"'
    )
    raise error


def require_model(key: ApiKey, model_id: str) -> None:
    """Raise Forbidden when the key is limited to other models."""
    if not key.may_use(model_id):
        raise forbidden_model(key, model_id)


def forbidden_model(key: ApiKey, name: str) -> Forbidden:
    """The refusal of a model, by the name that the client has for it and no other."""
    return Forbidden(
        f"the API key {key.name!r} may not use model {name!r}",
        hint="GET /v1/models lists those that it may use",
        code="model_forbidden",
        param="model",
    )


def _bearer(authorization: str | None) -> tuple[str, str]:
    """The secret of an Authorization header; without one, the reason as the end of a sentence."""
    text = _stripped(authorization)
    scheme, _, secret = text.partition(" ")
    secret = secret.strip()
    if not text:
        return "", ""
    if scheme.lower() == "bearer":
        doubled = secret.lower().startswith("bearer ")
        if secret and not doubled:
            return secret, ""
        return "", ": the Authorization header has " + (
            "'Bearer' twice" if doubled else "nothing after 'Bearer'"
        )
    if not secret:
        return "", ": the Authorization header has one word, without 'Bearer' before it"
    # The first word may be a part of a key, so only names of schemes are repeated.
    named = scheme if scheme.lower() in _OTHER_SCHEMES else "another scheme"
    return "", f": the Authorization header has {named} instead of 'Bearer'"


def _stripped(value: str | None) -> str:
    return (value or "").strip()
