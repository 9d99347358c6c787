# SPDX-License-Identifier: Apache-2.0
"""`sparkctl key show` and `key rotate`: the key that the package made, in its file.

Whoever prints a key prints it alone on the last line, so that `| tail -n 1` is a key.
"""

from __future__ import annotations

import grp
import os
import secrets
import subprocess
import sys
from pathlib import Path

from sparkd.adapters.files import config_paths, write_atomically
from sparkd.adapters.keyfiles import read_secrets
from sparkd.commands import identity, output
from sparkd.commands.arguments import Options
from sparkd.commands.exits import Exit
from sparkd.core.quantities import count_of

_PREFIX = "sk-sparkd-"
_SECRET_BYTES = 32
MODE = 0o640
_SERVICE = "sparkd.service"
_CREDENTIALS = Path("/run/credentials") / _SERVICE
_AT_ONCE = "a running gateway uses it from now on"
_RESTARTS = (
    "a running gateway has a credential in place of the file, and restarts to read it again; open "
    "answers get drain_timeout to end"
)
_SYSTEMCTL_TIMEOUT_S = 30.0


def show(options: Options) -> Exit:
    path = config_paths(os.environ).api_key
    if path.exists() and not os.access(path, os.R_OK):
        raise identity.needs_root(f"only root and sparkd may read {path}", options.words)
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
        raise identity.needs_root(f"only root may write {path}", options.words)
    key = make_key()
    write_atomically(path, f"{key}\n".encode(), mode=MODE, gid=group_id())
    restarts = credential_in_place_of(path) is not None and _restart_daemon()
    if options.json:
        output.print_json({"file": str(path), "keys": [key], "daemon_restarts": restarts})
    else:
        _explain(f"a new API key is in {path}; those that were in it are no longer valid")
        _explain(_RESTARTS if restarts else _AT_ONCE)
        print(key)
    return Exit.OK


def _explain(text: str) -> None:
    """Print prose to stderr: stdout is for keys alone, which shells put into variables."""
    print(text, file=sys.stderr)


def make_key() -> str:
    """A key of 256 random bits, of characters that need no quoting anywhere."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def group_id() -> int | None:
    """The group that may read the key; None where there is no such group or we may not give it."""
    if os.geteuid() != 0:
        return None
    try:
        return grp.getgrnam(identity.ACCOUNT).gr_gid
    except KeyError:
        return None


def credential_in_place_of(path: Path) -> Path | None:
    """The systemd credential that a running daemon reads instead of this file, if it has one."""
    credential = _CREDENTIALS / path.name
    ours = path.parent == config_paths({}).settings.parent
    return credential if ours and credential.exists() else None


def _restart_daemon() -> bool:
    """Have systemd copy the credential again, which it does when it starts a service."""
    # Not waited for: open streams may take their time to end.
    command = ["systemctl", "--no-block", "try-restart", _SERVICE]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=_SYSTEMCTL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
