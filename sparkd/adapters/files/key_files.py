# SPDX-License-Identifier: Apache-2.0
"""The files that hold API keys, read again when they change.

`api-key` holds secrets, one a line, of keys that may do everything; the package makes it. In
`keys.json` are the others, hashed (`core.access.api_keys`). A systemd credential of the name of one
of them takes its place. Which key may do what is not decided here.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from sparkd.adapters.files.config_files import MAX_FILE_BYTES, ConfigPaths
from sparkd.core.access import api_keys
from sparkd.core.access.api_keys import ApiKey, Keyring
from sparkd.core.errors import Misconfigured

log = logging.getLogger(__name__)

_PACKAGE_HINT = "sudo sparkctl key rotate"
_HINT = "sudo sparkctl key list"
_GLANCE_S = 0.1
"""How long a key that was revoked may still count; thousands of requests share one glance."""
_Signature = tuple[tuple[int, ...] | None, ...]


class KeyFiles:
    """The keys as the files have them now.

    A change counts without a restart or reload, because who asks makes us glance at both files: two
    calls of stat(2), and none within `_GLANCE_S` of the last, unless it must be known at once.
    """

    def __init__(self, paths: ConfigPaths, environ: Mapping[str, str]) -> None:
        self._package = _credential(paths.api_key, environ)
        self._others = _credential(paths.keys, environ)
        self._watched = (os.fspath(self._package), os.fspath(self._others))
        self._signature: _Signature | None = None
        self._glanced_s = -_GLANCE_S
        self._ring = Keyring()

    def current(self, now_s: float, *, at_once: bool = False) -> Keyring:
        """All keys, and what is wrong with the files; that is logged once for each reading.

        `now_s` is monotonic.
        """
        if now_s - self._glanced_s < _GLANCE_S and not at_once:
            return self._ring
        self._glanced_s = now_s
        signature: _Signature = tuple(_signature(path) for path in self._watched)
        if signature != self._signature:
            # Taken before the reading: what changes meanwhile is read again at the next glance.
            self._signature = signature
            self._ring = self._read()
            if self._ring.error is not None:
                log.error("%s", self._ring.error)
        return self._ring

    def _read(self) -> Keyring:
        keys: list[ApiKey] = []
        errors: list[Misconfigured] = []
        try:
            keys.extend(read_keys(self._others))
        except Misconfigured as error:
            errors.append(error)
        try:
            keys.extend(api_keys.package_keys(read_secrets(self._package)))
        except Misconfigured as error:
            # A host with keys in keys.json may do without the package key.
            if os.path.lexists(self._package) or not keys:
                errors.append(error)
        return Keyring(keys={key.digest: key for key in keys}, error=next(iter(errors), None))


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a keys.json; none when there is no such file. Raises Misconfigured."""
    try:
        text = _read_private(path, _HINT)
    except FileNotFoundError:
        return ()
    return api_keys.parse(text, str(path))


def read_secrets(path: Path) -> tuple[str, ...]:
    """The secrets of an api-key, one a line.

    Raises Misconfigured, with no secret in it, when there is none or the file is not fit for one.
    """
    try:
        text = _read_private(path, _PACKAGE_HINT)
    except FileNotFoundError as error:
        raise Misconfigured(f"there is no API key file {path}", hint=_PACKAGE_HINT) from error
    secrets = tuple(secrets_of(text, path))
    if not secrets:
        raise Misconfigured(f"API key file {path} holds no key", hint=_PACKAGE_HINT)
    return secrets


def _credential(path: Path, environ: Mapping[str, str]) -> Path:
    """The systemd credential of the name of a file if there is one, else the file."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and os.path.exists(Path(directory) / path.name):
        return Path(directory) / path.name
    return path


def _signature(path: str) -> tuple[int, ...] | None:
    """The identity of a file: it changes with a replacement, a write, or a change of owner."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read_private(path: Path, hint: str) -> str:
    """The text of a file with restricted readers. Raises FileNotFoundError, Misconfigured."""
    try:
        with open(path, encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & stat.S_IRWXO:
                raise Misconfigured(
                    f"API key file {path} is open to everybody (mode {mode:04o})",
                    hint=f"sudo chmod o= {path}; the keys may be known: {hint}",
                )
            return file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise Misconfigured(
            f"API key file {path} may not be read by this user",
            hint=f"use sudo; for the daemon: sudo chgrp sparkd {path}; sudo chmod 0640 {path}",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"API key file {path} is not readable", hint=hint) from error


def secrets_of(text: str, path: Path) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        secret = line.strip()
        if not secret or secret.startswith("#"):
            continue
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            raise Misconfigured(
                f"{path}:{number}: no HTTP header can carry this API key",
                hint="one key a line, of ASCII characters without spaces",
            )
        yield secret
