# SPDX-License-Identifier: Apache-2.0
"""What a model hub says of a repository, and which of its files a server needs. Opens nothing.

Knows the JSON of Hugging Face's API, two kinds of checksums, and the record that a fetched
directory carries, by which a later pull sees what it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from sparkd.core.errors import FetchFailed

RECORD_NAME = ".sparkd-pull.json"
MAIN = "main"

_SAFETENSORS = ".safetensors"
_OTHER_WEIGHTS = (
    *(".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".tflite"),
    *(".gguf", ".nemo"),
)
"""The same weights for other programs, once there are safetensors."""
_OTHER_DIRECTORIES = ("original/", "metal/", "onnx/", "openvino/", "coreml/")


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

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def find(self, path: str) -> RepoFile | None:
        return next((file for file in self.files if file.path == path), None)


def parse_listing(repo: str, text: str) -> Listing:
    """What `/api/models/REPO/revision/REVISION?blobs=true` answered. Raises FetchFailed."""
    try:
        answer = json.loads(text)
        commit, siblings = str(answer["sha"]), answer["siblings"]
        files = tuple(_file(one) for one in siblings)
    except (ValueError, KeyError, TypeError) as error:
        raise FetchFailed(f"what the hub says of {repo} cannot be read: {error!r}") from error
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise FetchFailed(f"the hub names no commit of {repo}: {commit[:80]!r}")
    for file in files:
        if not is_inside(file.path):
            raise FetchFailed(f"{repo} has a file that leads out of it: {file.path[:80]!r}")
    return Listing(repo=repo, commit=commit, files=files)


def is_inside(path: str) -> bool:
    """Whether a name of the hub stays below the directory that it is fetched to."""
    parts = path.split("/")
    harmless = path.isprintable() and path != RECORD_NAME
    return harmless and all(part not in ("", ".", "..") for part in parts)


def served(files: Iterable[RepoFile]) -> tuple[RepoFile, ...]:
    """The files that a server reads: without the same weights in the formats of other programs."""
    every = tuple(files)
    if not any(f.path.endswith(_SAFETENSORS) and "/" not in f.path for f in every):
        return every
    return tuple(
        file
        for file in every
        if not file.path.startswith(_OTHER_DIRECTORIES)
        and not file.path.lower().endswith(_OTHER_WEIGHTS)
    )


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


def parse_record(text: str) -> Listing | None:
    """Undo `record`; None for what is no record."""
    try:
        value = json.loads(text)
        files = tuple(
            RepoFile(path=str(f["path"]), size_bytes=int(f["size"]), digest=_digest(f["digest"]))
            for f in value["files"]
        )
        return Listing(repo=str(value["repo"]), commit=str(value["commit"]), files=files)
    except (ValueError, KeyError, TypeError):
        return None


def _file(sibling: Mapping[str, Any]) -> RepoFile:
    large = sibling.get("lfs")
    if large:
        digest, size = Digest(Algorithm.SHA256, _hex(large["sha256"], 64)), large["size"]
    else:
        digest, size = Digest(Algorithm.GIT_SHA1, _hex(sibling["blobId"], 40)), sibling["size"]
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"size {size!r}")
    return RepoFile(path=str(sibling["rfilename"]), size_bytes=size, digest=digest)


def _digest(text: str) -> Digest:
    algorithm, _, digits = text.rpartition("-")
    return Digest(Algorithm(algorithm), digits)


def _hex(text: object, length: int) -> str:
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{length}}}", text):
        raise ValueError(f"checksum {text!r}")
    return text
