# SPDX-License-Identifier: Apache-2.0
"""`sparkctl key add`, `list` and `revoke`: the keys of keys.json, of which only hashes are kept.

A running daemon sees each change at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sparkd.adapters.files import config_paths, write_atomically
from sparkd.adapters.flock import FileLock, Mode
from sparkd.adapters.keyfiles import read_keys, read_secrets
from sparkd.commands import identity, output
from sparkd.commands.arguments import Options
from sparkd.commands.exits import Exit, UsageError
from sparkd.commands.key import MODE, credential_in_place_of, group_id, make_key
from sparkd.core import apikeys
from sparkd.core.apikeys import ApiKey, Scope
from sparkd.core.errors import HostError, Misconfigured, NotFound, RequestError

_LOCK_TIMEOUT_S = 10.0
"""Whoever changes keys holds the lock for milliseconds."""


def add(options: Options) -> Exit:
    apikeys.check_name(options.name)
    secret = make_key()
    key = _new_key(options, apikeys.digest(secret.encode()))

    def with_it(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if any(one.name == key.name for one in keys):
            raise UsageError(
                f"there is a key {key.name!r} already",
                hint="choose another name; sudo sparkctl key list shows all",
            )
        return (*keys, key)

    path = _change(options, with_it)
    if options.json:
        output.print_json({"file": str(path), "key": secret, **apikeys.described(key)})
    else:
        print(f"key {key.name} {_rights(key)}", file=sys.stderr)
        print("only its hash is kept, so this is the one time it is shown:", file=sys.stderr)
        print(secret)
    return Exit.OK


def revoke(options: Options) -> Exit:
    apikeys.check_name(options.name)

    def without_it(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if all(one.name != options.name for one in keys):
            raise NotFound(f"there is no key {options.name!r}", hint="sudo sparkctl key list")
        return tuple(one for one in keys if one.name != options.name)

    path = _change(options, without_it)
    if options.json:
        output.print_json({"file": str(path), "name": options.name, "revoked": True})
    else:
        print(f"key {options.name} is no longer valid; requests that are open go on to their end")
    return Exit.OK


def list_keys(options: Options) -> Exit:
    paths = config_paths(os.environ)
    for path in (paths.keys, paths.api_key):
        if path.exists() and not os.access(path, os.R_OK):
            raise identity.needs_root(f"only root and sparkd may read {path}", options.words)
    keys = list(read_keys(paths.keys))
    try:
        keys[:0] = apikeys.package_keys(read_secrets(paths.api_key))
    except Misconfigured as error:
        output.print_error(error)
    if options.json:
        output.print_json([apikeys.described(key) for key in keys])
        return Exit.OK
    header = ("NAME", "SCOPES", "MODELS", "CONCURRENT", "PER MINUTE", "CREATED", "EXPIRES")
    print(output.table(header, [_row(key) for key in keys]))
    return Exit.OK


def _new_key(options: Options, digest: str) -> ApiKey:
    now = time.time()
    for pattern in options.models:
        apikeys.check_pattern(pattern)
    for limit in (options.concurrent, options.per_minute):
        if limit is not None:
            apikeys.check_limit(limit)
    expires_at = apikeys.parse_time(options.expires) if options.expires else None
    if expires_at is not None and expires_at <= now:
        raise RequestError(f"--expires {options.expires} is in the past", hint="name a later day")
    return ApiKey(
        name=options.name,
        digest=digest,
        # In the order of their definition, each once.
        scopes=tuple(one for one in Scope if one in (options.scopes or (Scope.INFERENCE,))),
        models=tuple(dict.fromkeys(options.models)),
        concurrent=options.concurrent,
        per_minute=options.per_minute,
        created_at=output.timestamp(now),
        expires_at=output.timestamp(expires_at),
    )


def _change(options: Options, change: Callable[[tuple[ApiKey, ...]], tuple[ApiKey, ...]]) -> Path:
    """Read the keys, change them and write them, while nobody else does; where they are."""
    path = config_paths(os.environ).keys
    if not os.access(path.parent, os.W_OK):
        raise identity.needs_root(f"only root may write {path}", options.words)
    with asyncio.run(_locked(path.with_name(f".{path.name}.lock"))):
        keys = change(read_keys(path))
        write_atomically(path, f"{apikeys.write(keys)}\n".encode(), mode=MODE, gid=group_id())
    credential = credential_in_place_of(path)
    if credential is not None:
        output.print_error(
            HostError(
                f"sparkd.service reads its credential {credential} in place of {path}",
                hint="if it is a copy of that file: sudo systemctl restart sparkd.service",
            )
        )
    return path


async def _locked(path: Path) -> FileLock:
    try:
        async with asyncio.timeout(_LOCK_TIMEOUT_S):
            return await FileLock.take(path, Mode.EXCLUSIVE)
    except TimeoutError:
        raise HostError(
            "another sparkctl is changing the keys", hint=f"try again; sudo fuser -v {path}"
        ) from None


def _rights(key: ApiKey) -> str:
    models = f"of {', '.join(key.models)}" if key.models else "of all models"
    limits = [
        f"{limit} {what}"
        for limit, what in ((key.concurrent, "at a time"), (key.per_minute, "a minute"))
        if limit is not None
    ]
    until = f", until {key.expires_at}" if key.expires_at else ""
    most = f", at most {' and '.join(limits)}" if limits else ""
    return f"is for {' and '.join(key.scopes)} {models}{most}{until}"


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.name,
        ",".join(key.scopes),
        ",".join(key.models) or "all",
        output.NOTHING if key.concurrent is None else str(key.concurrent),
        output.NOTHING if key.per_minute is None else str(key.per_minute),
        key.created_at or output.NOTHING,
        key.expires_at or output.NOTHING,
    )
