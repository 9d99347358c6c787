# SPDX-License-Identifier: Apache-2.0
"""API keys as they are stored: a name, the hash of the secret, and the rights of the key.

Owns the format of keys.json and nothing else: which file that is, and who may change it, is
`adapters.files.key_files`'s. A secret is never kept. Its SHA-256 is enough, for secrets are 256
random bits: slow password hashes are for what people think up and others can guess, and would only
have every request pay for them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from sparkd.core.errors import Misconfigured, RequestError, SparkdError

PACKAGE_KEY = "api-key"
"""The name of the keys of the file api-key, one a line; none of keys.json may have it."""
LIMIT_MOST = 100_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATTERN = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")
_HINT = "sudo sparkctl key list"
_FIELDS = ("name", "sha256", "scopes", "models", "concurrent", "per_minute")
_TIMES = ("created_at", "expires_at")


class Scope(StrEnum):
    """What a key is good for."""

    INFERENCE = "inference"
    """Ask models."""
    ADMIN = "admin"
    """Start and stop them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key, without its secret; a request with the secret has its rights."""

    name: str
    digest: str
    """SHA-256 of the secret, in hex."""
    scopes: tuple[Scope, ...] = (Scope.INFERENCE,)
    models: tuple[str, ...] = ()
    """Ids or patterns (`qwen*`) of the models it may use; empty for all."""
    concurrent: int | None = None
    """How many requests it may have open at a time."""
    per_minute: int | None = None
    """How many requests it may begin within any minute."""
    created_at: str | None = None
    """RFC 3339, UTC, as is the next."""
    expires_at: str | None = None

    def may_use(self, model_id: str) -> bool:
        return not self.models or any(fnmatchcase(model_id, pattern) for pattern in self.models)

    def may_use_as(self, model_id: str, served: str) -> bool:
        """Whether it may use a model under the id of the model or of one of its LoRA adapters."""
        return self.may_use(model_id) or self.may_use(served)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """All keys of this server, by the hash of their secrets."""

    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    error: Misconfigured | None = None
    """Why keys may be missing; those that are here count all the same."""


def digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def package_keys(secrets: Iterable[str]) -> Iterator[ApiKey]:
    """The keys of the file api-key: they may do everything."""
    for secret in secrets:
        yield ApiKey(name=PACKAGE_KEY, digest=digest(secret.encode()), scopes=tuple(Scope))


def parse(text: str, source: str) -> tuple[ApiKey, ...]:
    """The keys of a keys.json. Raises Misconfigured with the first thing that is wrong."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise Misconfigured(f"{source} is not JSON", hint=_HINT) from None
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list) or set(content) != {"keys"}:
        raise Misconfigured(f'{source} is not {{"keys": [...]}}', hint=_HINT)
    keys = tuple(_parse_key(entry, f"{source}: key {i}") for i, entry in enumerate(entries, 1))
    for what in ("name", "digest"):
        seen: set[str] = set()
        for number, key in enumerate(keys, 1):
            if getattr(key, what) in seen:
                raise Misconfigured(f"{source}: key {number}: its {what} is in the file twice")
            seen.add(getattr(key, what))
    return keys


def write(keys: Iterable[ApiKey]) -> str:
    """The text of a keys.json; `parse` reads the same keys from it."""
    return json.dumps({"keys": [described(key) | {"sha256": key.digest} for key in keys]}, indent=1)


def described(key: ApiKey) -> dict[str, object]:
    """All there is to say of a key."""
    return {
        "name": key.name,
        "scopes": list(key.scopes),
        "models": list(key.models),
        "concurrent": key.concurrent,
        "per_minute": key.per_minute,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }


def check_name(name: str) -> None:
    """Raise RequestError for what cannot be the name of a new key."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name[:80]!r} is not a valid key name",
            hint="at most 64 letters, digits, '.', '_' and '-'; a letter or digit first",
        )
    if name == PACKAGE_KEY:
        raise RequestError(
            f"{name!r} is the key that the package made", hint="sudo sparkctl key rotate"
        )


def check_pattern(pattern: str) -> None:
    """Raise RequestError for what matches no id of a model."""
    if not _PATTERN.fullmatch(pattern):
        raise RequestError(f"{pattern[:80]!r} is not a model id", hint="sparkctl models")


def check_limit(limit: int) -> None:
    """Raise RequestError for what is no limit of requests."""
    if not 1 <= limit <= LIMIT_MOST:
        raise RequestError(f"{limit} is out of range", hint=f"1 to {LIMIT_MOST}")


def parse_time(text: str) -> float:
    """Seconds since the epoch of `2027-01-31T12:00:00Z`; a date alone is its first moment.

    Raises RequestError.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            f"{text[:80]!r} is not a date", hint="write 2027-01-31, or 2027-01-31T12:00:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _parse_key(entry: object, where: str) -> ApiKey:
    if not isinstance(entry, dict):
        raise Misconfigured(f"{where} must be an object", hint=_HINT)
    values: dict[str, Any] = dict(entry)
    try:
        for name in values:
            if name not in (*_FIELDS, *_TIMES):
                raise RequestError(f"{name[:80]!r} is an unknown field")
        key = ApiKey(
            name=_text(values, "name"),
            digest=_text(values, "sha256"),
            scopes=tuple(Scope(scope) for scope in _texts(values, "scopes")),
            models=_texts(values, "models"),
            concurrent=_limit(values, "concurrent"),
            per_minute=_limit(values, "per_minute"),
            created_at=_time(values, "created_at"),
            expires_at=_time(values, "expires_at"),
        )
        check_name(key.name)
        if not _DIGEST.fullmatch(key.digest):
            raise RequestError("sha256 is not 64 hex digits")
        if not key.scopes:
            raise RequestError("scopes are missing")
        for pattern in key.models:
            check_pattern(pattern)
    except (SparkdError, ValueError) as error:
        text = error.message if isinstance(error, SparkdError) else str(error)
        raise Misconfigured(f"{where}: {text}", hint=_HINT) from None
    return key


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{name!r} must be a string")
    return value


def _texts(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value: Sequence[object] = values.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RequestError(f"{name} is not a list of strings")
    return tuple(str(item) for item in value)


def _limit(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(f"{name} is not a whole number")
    check_limit(value)
    return value


def _time(values: Mapping[str, Any], name: str) -> str | None:
    if values.get(name) is None:
        return None
    text = _text(values, name)
    parse_time(text)
    return text
