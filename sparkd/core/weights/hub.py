# SPDX-License-Identifier: Apache-2.0
"""A repository of a model hub: its files, their two kinds of checksums, the record of a pull.

Opens nothing. `hublisting` reads listings and records, `weightset` chooses among the files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

RECORD_NAME = ".sparkd-pull.json"
MAIN = "main"


class Hasher(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Algorithm(StrEnum):
    SHA256 = "sha256"
    """Of large files, and of addresses that entries name."""
    GIT_SHA1 = "git-sha1"
    """Of small files: what git calls the id of a blob."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """What a file must be."""

    algorithm: Algorithm
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.hex}"

    def hasher(self, size_bytes: int | None) -> Hasher:
        """To be fed with the file; git's needs to know its size beforehand."""
        if self.algorithm is Algorithm.SHA256:
            return hashlib.sha256()
        hasher = hashlib.sha1(usedforsecurity=False)
        hasher.update(b"blob %d\0" % (size_bytes or 0))
        return hasher


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoFile:
    """One file of a repository at one commit."""

    path: str
    size_bytes: int
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a repository at one commit."""

    repo: str
    commit: str
    files: tuple[RepoFile, ...]
    named: str = field(default="", compare=False)
    """The name that the hub has for it now; another one than `repo` after a renaming."""

    def find(self, path: str) -> RepoFile | None:
        return next((file for file in self.files if file.path == path), None)


def record(listing: Listing) -> str:
    """What is written beside the files of a listing once all of them are there."""
    value = {
        "repo": listing.repo,
        "commit": listing.commit,
        "files": [
            {"path": f.path, "size": f.size_bytes, "digest": str(f.digest)} for f in listing.files
        ],
    }
    return json.dumps(value, indent=1) + "\n"
