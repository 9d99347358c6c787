# SPDX-License-Identifier: Apache-2.0
"""Reading of the configuration files, and atomic writing of files.

Knows where files are and which file replaces which; what is in them is `core.config.load`'s. A
configuration file that cannot be read is a problem of the configuration, never an exception.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparkd.core.config.load import WEIGHTS_DIR, Source, SourceKind, parse
from sparkd.core.errors import HostError
from sparkd.core.model import Config, Problem
from sparkd.core.names import Layout

MAX_FILE_BYTES = 1 << 20
"""No catalog file comes near; a file that does was put there by mistake."""
_TEMPORARY = re.compile(r"\..+\.(?P<pid>[1-9][0-9]{0,9})-[0-9a-f]{12}\.tmp", re.DOTALL)

SHARE = Path(sys.prefix) / "share/sparkd"
"""What comes with sparkd: /usr/share/sparkd, or that of the virtual environment it runs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigPaths:
    """Where the configuration is."""

    settings: Path = Path("/etc/sparkd/sparkd.yaml")
    api_key: Path = Path("/etc/sparkd/api-key")
    keys: Path = Path("/etc/sparkd/keys.json")
    shipped_catalog: Path = SHARE / "models.d"
    local_catalog: Path = Path("/etc/sparkd/models.d")


def config_paths(environ: Mapping[str, str]) -> ConfigPaths:
    """The fixed paths; for development SPARKD_CONFIG_DIR and SPARKD_CATALOG_DIR move them."""
    fixed = ConfigPaths()
    config_dir = Path(environ.get("SPARKD_CONFIG_DIR") or fixed.settings.parent)
    return ConfigPaths(
        settings=config_dir / fixed.settings.name,
        api_key=config_dir / fixed.api_key.name,
        keys=config_dir / fixed.keys.name,
        shipped_catalog=Path(environ.get("SPARKD_CATALOG_DIR") or fixed.shipped_catalog),
        local_catalog=config_dir / fixed.local_catalog.name,
    )


def load_config(paths: ConfigPaths, *, weights_dir: Path = WEIGHTS_DIR) -> Config:
    """Everything that is configured, and everything that is wrong with it."""
    return parse([*_settings_sources(paths), *_catalog_sources(paths)], weights_dir=weights_dir)


def load_from(environ: Mapping[str, str], layout: Layout) -> Config:
    """The configuration as every process of sparkd reads it."""
    return load_config(config_paths(environ), weights_dir=layout.weights_dir)


def write_atomically(path: Path, content: bytes, *, mode: int, gid: int | None = None) -> None:
    """Put a whole file in place of another, or leave the other as it is.

    Owner, mode and content are complete and on the disk before the name changes hands, so neither
    a reader nor a power cut finds anything between old and new. Raises HostError.
    """
    # Hidden and not *.yaml: what a kill in the middle leaves is never taken for configuration.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(6).hex()}.tmp")
    try:
        try:
            _write_new(temporary, content, mode=mode, gid=gid)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise HostError(
            f"cannot write {path}: {error.strerror}", hint=f"ls -ld {path.parent}"
        ) from error


def remove_abandoned(directories: Iterable[Path]) -> None:
    """Remove what `write_atomically` left there when its process was killed in the middle.

    The name of each tells its process, so nothing that is still being written is taken away,
    whatever the clock says. What cannot be removed stays.
    """
    for directory in directories:
        with contextlib.suppress(OSError):
            for path in list(directory.iterdir()):
                found = _TEMPORARY.fullmatch(path.name)
                if found is not None and not _lives(int(found["pid"])):
                    path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _settings_sources(paths: ConfigPaths) -> Iterator[Source]:
    try:
        os.lstat(paths.settings)
    except FileNotFoundError:
        return
    except OSError as error:
        yield _unreadable(paths.settings, SourceKind.SETTINGS, 0, error)
        return
    yield _read_source(paths.settings, SourceKind.SETTINGS, layer=0)


def _catalog_sources(paths: ConfigPaths) -> Iterator[Source]:
    """Shipped files first; one of the same name in the local catalog takes a file's place."""
    local = list(_list_catalog(paths.local_catalog, layer=1))
    replaced = {Path(source.name).name for source in local}
    for source in _list_catalog(paths.shipped_catalog, layer=0):
        if Path(source.name).name not in replaced:
            yield source
    yield from local


def _list_catalog(directory: Path, *, layer: int) -> Iterator[Source]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        yield _unreadable(directory, SourceKind.MODELS, layer, error)
        return
    for name in names:
        path = directory / name
        if name.startswith("."):
            continue
        if name.endswith(".yaml"):
            yield _read_source(path, SourceKind.MODELS, layer)
        elif name.endswith(".yml"):
            hint = f"mv {path} {path.with_suffix('.yaml')}"
            yield _refuse(path, SourceKind.MODELS, layer, "only *.yaml is read", hint)


def _read_source(path: Path, kind: SourceKind, layer: int) -> Source:
    try:
        content = _read_regular(path)
    except OSError as error:
        return _unreadable(path, kind, layer, error)
    if content is None:
        return _refuse(path, kind, layer, "not a file", f"ls -l {path}")
    if len(content) > MAX_FILE_BYTES:
        limit = f"at most {MAX_FILE_BYTES >> 20} MiB"
        return _refuse(path, kind, layer, "too large for a configuration file", limit)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return _refuse(path, kind, layer, "not UTF-8 text", f"file {path}", line=line)
    return Source(kind=kind, name=str(path), text=text, layer=layer)


def _read_regular(path: Path) -> bytes | None:
    """The start of a file, a byte more than the limit; None for what is not a file.

    /dev/null, to which systemd's users link what they mask, reads as the empty file it stands for.
    """
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) and status.st_rdev != os.stat(os.devnull).st_rdev:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)


def _unreadable(path: Path, kind: SourceKind, layer: int, error: OSError) -> Source:
    return _refuse(path, kind, layer, f"cannot be read: {error.strerror}", f"namei -l {path}")


def _refuse(
    path: Path, kind: SourceKind, layer: int, message: str, hint: str, *, line: int = 1
) -> Source:
    problem = Problem(source=str(path), line=line, path="", message=message, hint=hint)
    return Source(kind=kind, name=str(path), layer=layer, unreadable=problem)


def _write_new(path: Path, content: bytes, *, mode: int, gid: int | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        if gid is not None:
            os.fchown(file.fileno(), -1, gid)
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
