# SPDX-License-Identifier: Apache-2.0
"""Staging of downloads: partial files, verified blobs, and one atomic rename into place.

They are kept in a hidden directory beside the destination, by checksum: what is there under its
name is whole and verified, `*.part` is the beginning of it. So a kill at any instruction leaves
nothing that looks whole, and the next pull continues there. Call with the destination's
pull lock held.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparkd.adapters.failpoints import failpoint
from sparkd.core.errors import FetchFailed, HostError
from sparkd.core.quantities import readable_size
from sparkd.core.weights.hub import RECORD_NAME, Digest, Listing, record
from sparkd.core.weights.hub_listing import MAX_BYTES, parse_record

_READ_BYTES = 1 << 20


class MismatchError(FetchFailed):
    """A file that came whole is not what it must be."""

    code = "checksum_mismatch"


@dataclass(frozen=True, slots=True)
class Staging:
    """The staging directory of one destination."""

    destination: Path

    @property
    def directory(self) -> Path:
        return self.destination.parent / f".{self.destination.name}.partial"

    def blob(self, digest: Digest) -> Path:
        return self.directory / str(digest)

    def part(self, digest: Digest) -> Path:
        return self.directory / f"{digest}.part"

    def has(self, digest: Digest) -> bool:
        return self.blob(digest).exists()

    def part_bytes(self, digest: Digest) -> int:
        """How much of a file is there."""
        try:
            return self.part(digest).stat().st_size
        except OSError:
            return 0

    def prepare(self) -> None:
        """Make the directory. Raises HostError."""
        with disk(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def adopt(self, path: Path, digest: Digest) -> None:
        """Take a file that an earlier pull verified instead of fetching it again."""
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            os.link(path, self.blob(digest))

    def place_file(self, digest: Digest) -> None:
        """Put a blob in the destination's place and remove all else that is here."""
        with disk(self.destination):
            os.replace(self.blob(digest), self.destination)
            sync_directory(self.destination.parent)
            failpoint("pull-placed")
            shutil.rmtree(self.directory)

    def place_tree(self, listing: Listing) -> None:
        """Put the files of a listing, all of which are blobs, in the destination's place."""
        tree, old = self.directory / "tree", self.directory / "old"
        with disk(self.destination):
            for left in (tree, old):
                shutil.rmtree(left, ignore_errors=True)
            for file in listing.files:
                path = tree / file.path
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.link(self.blob(file.digest), path)
            failpoint("pull-assembled")
            (tree / RECORD_NAME).write_text(record(listing))
            _sync_tree(tree)
            failpoint("pull-recorded")
            if self.destination.exists():
                os.rename(self.destination, old)
                failpoint("pull-displaced")
            os.rename(tree, self.destination)
            sync_directory(self.destination.parent)
            failpoint("pull-placed")
            shutil.rmtree(self.directory)


class PartialFile:
    """The file that grows. Counts into the checksum what is there already."""

    def __init__(self, store: Staging, digest: Digest, size_bytes: int | None) -> None:
        self._store, self._digest, self._size_bytes = store, digest, size_bytes
        self._path = store.part(digest)
        self._hasher = digest.hasher(size_bytes)
        self.bytes = 0
        with disk(self._path):
            # Unbuffered: what was written survives us.
            self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115 (close closes it)
            self._file.seek(0)
            while chunk := self._file.read(_READ_BYTES):
                self._hasher.update(chunk)
                self.bytes += len(chunk)
        if size_bytes is not None and self.bytes > size_bytes:
            self.restart()

    def write(self, chunk: bytes) -> None:
        """Raises HostError when the disk is full."""
        with disk(self._path):
            view = memoryview(chunk)
            while view:
                written = self._file.write(view)
                self._hasher.update(view[:written])
                self.bytes += written
                view = view[written:]
        failpoint("pull-written")

    def check_room(self, size_bytes: int) -> None:
        """Refuse a file whose rest does not fit. Raises HostError."""
        free = free_bytes(self._path.parent)
        if size_bytes - self.bytes > free:
            raise HostError(
                f"{readable_size(size_bytes)} are to be fetched, {readable_size(free)} are free in "
                f"{self._path.parent}",
                hint=f"df -h {self._path.parent}",
                code="disk_full",
            )

    def restart(self) -> None:
        """Forget what is there."""
        with disk(self._path):
            self._file.truncate(0)
        self._hasher = self._digest.hasher(self._size_bytes)
        self.bytes = 0

    def finish(self, what: str) -> None:
        """It is all there: verify it, and give it its name. Raises MismatchError, and forgets it
        then."""
        failpoint("pull-complete")
        found = self._hasher.hexdigest()
        if found != self._digest.hex:
            self.restart()
            raise MismatchError(
                f"{what}: its {self._digest.algorithm} is {found}, not {self._digest.hex}",
                hint="a proxy changes it on the way, or the entry has the checksum of another file",
            )
        with disk(self._path):
            os.fsync(self._file.fileno())
            os.rename(self._path, self._store.blob(self._digest))
        failpoint("pull-verified")

    def close(self) -> None:
        self._file.close()


def fetched(destination: Path) -> Listing | None:
    """What an earlier pull put there, as long as no file of it is missing or has another size."""
    try:
        with open(destination / RECORD_NAME, "rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError:
        return None
    listing = parse_record(text.decode(errors="replace")) if len(text) <= MAX_BYTES else None
    whole = listing is not None and all(
        _size(destination / file.path) == file.size_bytes for file in listing.files
    )
    return listing if whole else None


def has_content(path: Path) -> bool:
    """Whether something is there that is not an empty directory."""
    try:
        return path.is_file() or any(path.iterdir())
    except OSError:
        return False


def verified(path: Path, digest: Digest) -> bool:
    """Whether a file is there and is what it must be."""
    try:
        hasher = digest.hasher(path.stat().st_size)
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                hasher.update(chunk)
    except OSError:
        return False
    return hasher.hexdigest() == digest.hex


def free_bytes(path: Path) -> int:
    """How much we may still write where a path is or will be."""
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def device_of(path: Path) -> int:
    """Which file system a path is or will be on."""
    while not path.exists():
        path = path.parent
    return path.stat().st_dev


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Say what the file system refused, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HostError(
                f"the disk is full: {path.parent}",
                hint=f"df -h {path.parent}; the fetched part is kept for the next pull",
                code="disk_full",
            ) from error
        where = error.filename or path
        raise HostError(
            f"cannot write {where}: {error.strerror}",
            hint=f"user sparkd must be able to write there: sudo ls -ld {path.parent}",
        ) from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _sync_tree(tree: Path) -> None:
    # The blobs were synced when they became whole.
    with open(tree / RECORD_NAME, "rb") as file:
        os.fsync(file.fileno())
    for directory, _, _ in os.walk(tree):
        sync_directory(Path(directory))
