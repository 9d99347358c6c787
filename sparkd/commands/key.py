# SPDX-License-Identifier: Apache-2.0
"""`sparkctl key show` and `key rotate`: the API key in its file.

Whoever prints a key prints it alone on the last line, so that `| tail -n 1` is a key.
"""

from __future__ import annotations

import grp
import os
import secrets
import subprocess
from pathlib import Path

from sparkd.adapters.files import config_paths, read_api_keys, write_atomically
from sparkd.commands import identity, output
from sparkd.commands.arguments import Options
from sparkd.commands.exits import Exit

_PREFIX = "sk-sparkd-"
_SECRET_BYTES = 32
_MODE = 0o640
_SERVICE = "sparkd.service"
_RESTARTS = "a running daemon restarts with it; open answers get drain_timeout to end"
_BY_HAND = f"for a running daemon: sudo systemctl try-restart {_SERVICE}"
_SYSTEMCTL_TIMEOUT_S = 30.0


def show(options: Options) -> Exit:
    path = config_paths(os.environ).api_key
    if path.exists() and not os.access(path, os.R_OK):
        raise identity.needs_root(f"only root and sparkd may read {path}", options.words)
    keys = read_api_keys(config_paths(os.environ), {})
    if options.json:
        output.print_json({"file": str(path), "keys": list(keys)})
    else:
        print(f"{output.count_of(len(keys), 'API key')} in {path}; clients send one as")
        print("Authorization: Bearer KEY, or as x-api-key: KEY", *keys, sep="\n")
    return Exit.OK


def rotate(options: Options) -> Exit:
    path = config_paths(os.environ).api_key
    if not os.access(path.parent, os.W_OK):
        raise identity.needs_root(f"only root may write {path}", options.words)
    key = make_key()
    write_atomically(path, f"{key}\n".encode(), mode=_MODE, gid=_group_id())
    restarts = _restart_daemon(path)
    if options.json:
        output.print_json({"file": str(path), "keys": [key], "daemon_restarts": restarts})
    else:
        print(f"a new API key is in {path}; those that were in it are no longer valid")
        print(_RESTARTS if restarts else _BY_HAND, key, sep="\n")
    return Exit.OK


def make_key() -> str:
    """A key of 256 random bits, of characters that need no quoting anywhere."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def _group_id() -> int | None:
    """The group that may read the key; None where there is no such group or we may not give it."""
    if os.geteuid() != 0:
        return None
    try:
        return grp.getgrnam(identity.ACCOUNT).gr_gid
    except KeyError:
        return None


def _restart_daemon(path: Path) -> bool:
    """Have a running daemon use the new key; False when that is left to the user."""
    if path != config_paths({}).api_key or not os.path.isdir("/run/systemd/system"):
        return False
    # A restart, because systemd copies a credential when it starts a service, and a reload would
    # leave the old copy valid. Not waited for: open streams may take their time to end.
    command = ["systemctl", "--no-block", "try-restart", _SERVICE]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=_SYSTEMCTL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
