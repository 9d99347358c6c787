# SPDX-License-Identifier: Apache-2.0
"""The user that a command acts as: only the user sparkd owns the locks, the bus and Podman.

Root becomes that user for good before anything is touched, so that no file of root's appears among
sparkd's. A development run (SPARKD_RUNTIME_DIR) acts as its user.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Mapping, Sequence
from enum import Enum

from sparkd.core.errors import HostError
from sparkd.sparkctl.exit_codes import NotPermittedError

ACCOUNT = "sparkd"
_UMASK = 0o077
_OWN_CONFIG = ("SPARKD_CONFIG_DIR", "SPARKD_CATALOG_DIR")


class Identity(Enum):
    """The relation of the calling user to sparkd."""

    OWNER = "owner"
    """The user owns everything that the command needs: a development run."""
    SPARKD = "sparkd"
    ROOT = "root"
    STRANGER = "stranger"


def identity(*, uid: int, sparkd_uid: int | None, environ: Mapping[str, str]) -> Identity:
    """The identity of `uid`; `sparkd_uid` is None when there is no such user."""
    if environ.get("SPARKD_RUNTIME_DIR"):
        return Identity.OWNER
    if uid == sparkd_uid:
        return Identity.SPARKD
    return Identity.ROOT if uid == 0 else Identity.STRANGER


def user_environment(account: pwd.struct_passwd) -> dict[str, str]:
    """The environment variables through which programs find that user's bus and Podman."""
    runtime_dir = f"/run/user/{account.pw_uid}"
    return {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "XDG_RUNTIME_DIR": runtime_dir,
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime_dir}/bus",
    }


def act_as_sparkd(words: Sequence[str]) -> None:
    """Become the user sparkd. Raises NotPermittedError, with `words` in its hint, or HostError."""
    account = find_account()
    uid = account.pw_uid if account else None
    match identity(uid=os.geteuid(), sparkd_uid=uid, environ=os.environ):
        case Identity.OWNER:
            return
        case Identity.STRANGER:
            raise needs_root("only root and the user sparkd may do that", words)
        case Identity.ROOT if account is not None:
            _drop_root(account)
    if account is None:
        raise HostError(
            f"there is no user {ACCOUNT}", hint="install the package: apt install ./sparkd_*.deb"
        )
    _adopt_environment(account)


def read_as_sparkd() -> None:
    """Root becomes the user sparkd if possible, so that a reading shows the daemon's view.

    Other users keep their identity, and so does root with another configuration directory.
    """
    account = find_account()
    if any(os.environ.get(name) for name in _OWN_CONFIG) or account is None:
        return
    if identity(uid=os.geteuid(), sparkd_uid=account.pw_uid, environ=os.environ) is Identity.ROOT:
        _drop_root(account)
        _adopt_environment(account)


def find_account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None


def needs_root(message: str, words: Sequence[str]) -> NotPermittedError:
    return NotPermittedError(message, hint=shlex.join(["sudo", "sparkctl", *words]))


def _drop_root(account: pwd.struct_passwd) -> None:
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.umask(_UMASK)
    # The user sparkd may not be allowed to enter root's working directory.
    os.chdir("/")


def _adopt_environment(account: pwd.struct_passwd) -> None:
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[name]
    os.environ.update(user_environment(account))
