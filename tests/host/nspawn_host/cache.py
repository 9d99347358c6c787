# SPDX-License-Identifier: Apache-2.0
"""Where everything lasting lives: the cache directory, its locks, its write-then-rename rule.

An entry is named after the hash of what it was made from and appears under that name only when it
is whole. Nothing here knows what an entry contains.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .console import HostError, run_to_end, say


def cache_dir() -> Path:
    """Return the cache directory, made if missing."""
    chosen = os.environ.get("SPARKD_CACHE") or Path.home() / ".cache" / "sparkd"
    path = Path(chosen).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def key_of(*parts: str) -> str:
    """Return a short hash that changes when any part does."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def file_key(path: Path) -> str:
    """Return the short hash of a file's content."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()[:16]


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the cache's lock of that name; the kernel frees it if this process dies."""
    locks = cache_dir() / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another command that holds '{name}'")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(relative: str, make: Callable[[Path], None]) -> Path:
    """Return the cache entry, calling `make(unfinished_path)` first if it is not there."""
    whole = cache_dir() / relative
    if whole.exists():
        return whole
    with lock(f"make-{whole.name}"):
        if whole.exists():
            return whole
        whole.parent.mkdir(parents=True, exist_ok=True)
        unfinished = whole.with_name(f".unfinished-{whole.name}")
        remove_tree(unfinished)
        make(unfinished)
        unfinished.rename(whole)
    return whole


def remove_tree(path: Path) -> None:
    """Delete a file or directory, refusing while anything is mounted inside it."""
    if not path.is_symlink() and not path.exists():
        return
    inside = f"{path}/"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount_point = line.split()[4].replace("\\040", " ")
        if mount_point == str(path) or mount_point.startswith(inside):
            raise HostError(f"'{mount_point}' is mounted inside '{path}'", f"umount {mount_point}")
    run_to_end(["rm", "-rf", "--one-file-system", "--", path], what=f"removing '{path}'")


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory's files, sharing blocks where the file system can."""
    run_to_end(
        ["cp", "-rT", "--reflink=auto", "--no-preserve=mode", "--", source, target],
        what=f"copying '{source}'",
    )


def place_file(source: Path, target: Path) -> None:
    """Put a read-only use of a large file at `target`, without a copy where possible."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
