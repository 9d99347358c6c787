# SPDX-License-Identifier: Apache-2.0
"""`sparkctl key`: the package key in its file, and the keys of keys.json, stored only as hashes.

A command that prints a key prints it alone on the last line, so that `| tail -n 1` yields it. A
running daemon sees each change at once.
"""

from __future__ import annotations

import asyncio
import grp
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sparkd.adapters.files.config_files import config_paths, write_atomically
from sparkd.adapters.files.key_files import read_keys, read_secrets
from sparkd.adapters.flock import FileLock, Mode
from sparkd.core.access import api_keys
from sparkd.core.access.api_keys import ApiKey, Scope
from sparkd.core.errors import HostError, Misconfigured, NotFound, RequestError
from sparkd.core.quantities import count_of
from sparkd.sparkctl import output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit, UsageError

_PREFIX = "sk-sparkd-"
_SECRET_BYTES = 32
_MODE = 0o640
_SERVICE = "sparkd.service"
_CREDENTIALS = Path("/run/credentials") / _SERVICE
_AT_ONCE = "a running gateway uses it from now on"
_RESTARTS = (
    "a running gateway has a credential in place of the file, and restarts to read it again; open "
    "answers get drain_timeout to end"
)
_SYSTEMCTL_TIMEOUT_S = 30.0
_LOCK_TIMEOUT_S = 10.0
"""A change of keys holds the lock for milliseconds."""


def run(options: Options) -> Exit:
    verb = options.command.split()[1]
    run_verb = {"show": show, "rotate": rotate, "add": add, "list": list_keys, "revoke": revoke}
    return run_verb[verb](options)


def show(options: Options) -> Exit:
    path = config_paths(os.environ).api_key
    if path.exists() and not os.access(path, os.R_OK):
        raise privileges.needs_root(f"only root and sparkd may read {path}", options.words)
    keys = read_secrets(path)
    if options.json:
        output.print_json({"file": str(path), "keys": list(keys)})
    else:
        _explain(f"{count_of(len(keys), 'API key')} in {path}; clients send one as")
        _explain("Authorization: Bearer KEY, or as x-api-key: KEY")
        print(*keys, sep="\n")
    return Exit.OK


def rotate(options: Options) -> Exit:
    path = config_paths(os.environ).api_key
    if not os.access(path.parent, os.W_OK):
        raise privileges.needs_root(f"only root may write {path}", options.words)
    key = _make_key()
    write_atomically(path, f"{key}\n".encode(), mode=_MODE, gid=_group_id())
    restarts = _credential_in_place_of(path) is not None and _restart_daemon()
    if options.json:
        output.print_json({"file": str(path), "keys": [key], "daemon_restarts": restarts})
    else:
        _explain(f"a new API key is in {path}; those that were in it are no longer valid")
        _explain(_RESTARTS if restarts else _AT_ONCE)
        print(key)
    return Exit.OK


def add(options: Options) -> Exit:
    api_keys.check_name(options.name)
    secret = _make_key()
    key = _new_key(options, api_keys.digest(secret.encode()))

    def with_it(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if any(one.name == key.name for one in keys):
            raise UsageError(
                f"there is a key {key.name!r} already",
                hint="choose another name; sudo sparkctl key list shows all",
            )
        return (*keys, key)

    path = _change(options, with_it)
    if options.json:
        output.print_json({"file": str(path), "key": secret, **api_keys.described(key)})
    else:
        print(f"key {key.name} {_rights(key)}", file=sys.stderr)
        print("only its hash is kept, so this is the one time it is shown:", file=sys.stderr)
        print(secret)
    return Exit.OK


def revoke(options: Options) -> Exit:
    api_keys.check_name(options.name)

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
            raise privileges.needs_root(f"only root and sparkd may read {path}", options.words)
    keys = list(read_keys(paths.keys))
    try:
        keys[:0] = api_keys.package_keys(read_secrets(paths.api_key))
    except Misconfigured as error:
        output.print_error(error)
    if options.json:
        output.print_json([api_keys.described(key) for key in keys])
        return Exit.OK
    header = ("NAME", "SCOPES", "MODELS", "CONCURRENT", "PER MINUTE", "CREATED", "EXPIRES")
    print(output.table(header, [_row(key) for key in keys]))
    return Exit.OK


def _explain(text: str) -> None:
    """Print prose to stderr: stdout is only for keys, which shells assign to variables."""
    print(text, file=sys.stderr)


def _make_key() -> str:
    """A key of 256 random bits, in characters that never need quoting."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def _group_id() -> int | None:
    """The group that may read the key; None if it does not exist or we may not assign it."""
    if os.geteuid() != 0:
        return None
    try:
        return grp.getgrnam(privileges.ACCOUNT).gr_gid
    except KeyError:
        return None


def _credential_in_place_of(path: Path) -> Path | None:
    """The systemd credential that a running daemon reads instead of this file, if it has one."""
    credential = _CREDENTIALS / path.name
    ours = path.parent == config_paths({}).settings.parent
    return credential if ours and credential.exists() else None


def _restart_daemon() -> bool:
    """Have systemd copy the credential again, which it does when it starts a service."""
    # We do not wait for the restart: open streams may take long to end.
    command = ["systemctl", "--no-block", "try-restart", _SERVICE]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=_SYSTEMCTL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _new_key(options: Options, digest: str) -> ApiKey:
    now = time.time()
    for pattern in options.models:
        api_keys.check_pattern(pattern)
    for limit in (options.concurrent, options.per_minute):
        if limit is not None:
            api_keys.check_limit(limit)
    expires_at = api_keys.parse_time(options.expires) if options.expires else None
    if expires_at is not None and expires_at <= now:
        raise RequestError(f"--expires {options.expires} is in the past", hint="name a later day")
    return ApiKey(
        name=options.name,
        digest=digest,
        # Each scope once, in the order of definition.
        scopes=tuple(one for one in Scope if one in (options.scopes or (Scope.INFERENCE,))),
        models=tuple(dict.fromkeys(options.models)),
        concurrent=options.concurrent,
        per_minute=options.per_minute,
        created_at=output.timestamp(now),
        expires_at=output.timestamp(expires_at),
    )


def _change(options: Options, change: Callable[[tuple[ApiKey, ...]], tuple[ApiKey, ...]]) -> Path:
    """Read, change and write the keys, under a lock; the path of their file."""
    path = config_paths(os.environ).keys
    if not os.access(path.parent, os.W_OK):
        raise privileges.needs_root(f"only root may write {path}", options.words)
    with asyncio.run(_locked(path.with_name(f".{path.name}.lock"))):
        keys = change(read_keys(path))
        write_atomically(path, f"{api_keys.write(keys)}\n".encode(), mode=_MODE, gid=_group_id())
    credential = _credential_in_place_of(path)
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
