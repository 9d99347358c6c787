# SPDX-License-Identifier: Apache-2.0
"""A hub's listing of a repository, and the record of a pull, read without trust.

Raises no other error than FetchFailed, whatever the bytes are. Every name stays inside the
directory that the files go to, every size is bounded, and every file has a checksum. Opens nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from sparkd.core.errors import FetchFailed
from sparkd.core.weights.hub import RECORD_NAME, Algorithm, Digest, Listing, RepoFile

MAX_BYTES = 8 << 20
"""Of a listing as JSON; a file takes some 300 bytes of it."""
MAX_FILES = 20_000
MAX_TOTAL_BYTES = 64 << 40

_MAX_PATH_BYTES = 1024
_MAX_NAME_BYTES = 255
"""NAME_MAX of Linux."""
_MAX_LEVELS = 32
_SHOWN = 80
_REPO = re.compile(
    r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?"
)
_DIGITS = {Algorithm.SHA256: 64, Algorithm.GIT_SHA1: 40}


def parse_listing(repo: str, text: str) -> Listing:
    """The answer of `/api/models/REPO/revision/REVISION?blobs=true`. Raises FetchFailed."""
    answer = _object(_json(text), f"the listing of {repo}")
    commit = answer.get("sha")
    if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
        raise _unexpected(f"the listing of {repo} names no commit: {_shown(commit)}")
    siblings = answer.get("siblings")
    if not isinstance(siblings, list):
        raise _unexpected(f"the listing of {repo} names no files: {_shown(siblings)}")
    if len(siblings) > MAX_FILES:
        raise _unexpected(f"{repo} has {len(siblings)} files, sparkd fetches at most {MAX_FILES}")
    files = tuple(_sibling(repo, one) for one in siblings)
    _check_tree(repo, files)
    name = answer.get("id")
    named = isinstance(name, str) and _REPO.fullmatch(name) is not None
    return Listing(repo=repo, commit=commit, files=files, named=str(name) if named else repo)


def parse_record(text: str) -> Listing | None:
    """Undo `hub.record`; None for other texts."""
    try:
        value = _object(_json(text), "the record")
        repo, commit, listed = value.get("repo"), value.get("commit"), value.get("files")
        if not (isinstance(repo, str) and isinstance(commit, str) and isinstance(listed, list)):
            return None
        files = tuple(_recorded(one) for one in listed)
        _check_tree(repo, files)
    except FetchFailed:
        return None
    return Listing(repo=repo, commit=commit, files=files, named=repo)


def is_inside(path: str) -> bool:
    """Whether a name of the hub stays below the directory that it is fetched to."""
    parts = path.split("/")
    # A name of printable characters has no surrogates, and so an encoding.
    if not path.isprintable() or len(parts) > _MAX_LEVELS or path == RECORD_NAME:
        return False
    fits = all(len(part.encode()) <= _MAX_NAME_BYTES for part in parts)
    return fits and len(path.encode()) <= _MAX_PATH_BYTES and not {"", ".", ".."} & set(parts)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unexpected("its answer is not JSON") from error


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _unexpected(f"{what} is not a JSON object: {_shown(value)}")
    return value


def _sibling(repo: str, value: object) -> RepoFile:
    one = _object(value, f"a file in the listing of {repo}")
    path = one.get("rfilename")
    if not isinstance(path, str) or not is_inside(path):
        raise _unexpected(f"{repo} has a file that leads out of it: {_shown(path)}")
    large = one.get("lfs")
    if large is None:
        digest, size = _digest(Algorithm.GIT_SHA1, one.get("blobId")), one.get("size")
    else:
        large = _object(large, f"the checksum of {_shown(path)}")
        sha256 = large.get("sha256") or large.get("oid")
        digest, size = _digest(Algorithm.SHA256, sha256), large.get("size")
    if digest is None:
        raise FetchFailed(
            f"{repo}: this hub tells no checksum of {_shown(path)}, so nothing can verify it",
            hint="use a hub that tells them, such as `hub: https://huggingface.co` in "
            "/etc/sparkd/sparkd.yaml; or fetch the files by hand and write weights: {path: ...}",
            code="checksum_missing",
        )
    return RepoFile(path=path, size_bytes=_size(path, size), digest=digest)


def _recorded(value: object) -> RepoFile:
    one = _object(value, "a file of the record")
    path, text = one.get("path"), one.get("digest")
    if not isinstance(path, str) or not is_inside(path) or not isinstance(text, str):
        raise _unexpected("the record names no file")
    algorithm, _, digits = text.rpartition("-")
    known = next((one for one in Algorithm if one == algorithm), None)
    digest = _digest(known, digits) if known else None
    if digest is None:
        raise _unexpected("the record names no checksum")
    return RepoFile(path=path, size_bytes=_size(path, one.get("size")), digest=digest)


def _digest(algorithm: Algorithm, text: object) -> Digest | None:
    if isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{_DIGITS[algorithm]}}}", text):
        return Digest(algorithm, text)
    return None


def _size(path: str, value: object) -> int:
    # A bool is an int in Python.
    if type(value) is not int or not 0 <= value <= MAX_TOTAL_BYTES:
        raise _unexpected(f"the size of {_shown(path)} is {_shown(value)}")
    return value


def _check_tree(repo: str, files: Iterable[RepoFile]) -> None:
    """Every name once, no file where another one needs a directory, and a sum that is bounded."""
    paths: set[str] = set()
    total = 0
    for file in files:
        if file.path in paths:
            raise _unexpected(f"{repo} lists {_shown(file.path)} twice")
        paths.add(file.path)
        total += file.size_bytes
    if total > MAX_TOTAL_BYTES:
        raise _unexpected(f"{repo} has {total} bytes, sparkd fetches at most {MAX_TOTAL_BYTES}")
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in paths:
                raise _unexpected(f"{repo} has {_shown(parent)} as a file and as a directory")
            parent = parent.rpartition("/")[0]


def _unexpected(message: str) -> FetchFailed:
    return FetchFailed(
        f"unexpected reply from the hub: {message}",
        hint="try again; if it stays so, check `hub` in /etc/sparkd/sparkd.yaml or HF_ENDPOINT",
    )


def _shown(value: object) -> str:
    """A value as one short line, however large it is."""
    if isinstance(value, str):
        return ascii(value[:_SHOWN])
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return ascii(value)[:_SHOWN]
