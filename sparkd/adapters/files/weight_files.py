# SPDX-License-Identifier: Apache-2.0
"""The files of a model's weights as its container will see them: broken links, unreadable files.

A container sees one directory of the host under another name. A link in it works only if it is
relative and its way stays below that directory. Reads directories and links, and no file.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparkd.core.weights.hub_cache import mount_root

_MAX_ENTRIES = 20_000
"""More than any repository that `pull` fetches; a larger directory is not walked to its end."""
_MAX_LINKS = 40
"""As the kernel follows in one path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFlaw:
    """The reason why a container cannot read the weights as they are, and a cure."""

    message: str
    hint: str


def layout_flaw(weights: Path) -> WeightsFlaw | None:
    """The first link that a container cannot follow; None if all work or none is there.

    Hidden files are no weights and may link anywhere. A repository of Hugging Face's cache in
    place of one of its snapshots is a flaw too.
    """
    if weights.name.startswith("models--") and (weights / "snapshots").is_dir():
        return WeightsFlaw(
            message=f"{weights} is a repository of a cache, the weights are in its snapshots",
            hint=f"write weights: {{path: {_main_snapshot(weights)}}}",
        )
    root = os.path.realpath(mount_root(weights))
    for path in _entries(weights):
        leaves = _leaves(root, path) if path.is_symlink() else None
        if leaves is not None:
            return _link_flaw(weights, path, leaves=leaves)
    return None


def _link_flaw(weights: Path, link: Path, *, leaves: bool) -> WeightsFlaw:
    message = f"{link} links to {_target(link)}, which "
    if not leaves:
        return WeightsFlaw(
            message=f"{message}does not exist",
            hint=f"fetch the file again, or remove the link: ls -l {link}",
        )
    real = Path(os.path.realpath(weights))
    return WeightsFlaw(
        message=f"{message}leaves the directory, so the container cannot follow it",
        hint=f"write weights: {{path: {real}}}"
        if real != weights and mount_root(real) != real
        else f"copy the files in place of the links: sudo cp -rL {weights} {weights}.copy, and "
        f"write weights: {{path: {weights}.copy}}",
    )


def _main_snapshot(repository: Path) -> Path:
    """The snapshot of the main branch, or the newest; a placeholder where there is none."""
    snapshots = repository / "snapshots"
    try:
        with open(repository / "refs/main", encoding="ascii") as file:
            main = snapshots / file.read(64).strip()
        if main.parent == snapshots and main.is_dir():
            return main
        return max(snapshots.iterdir(), key=lambda one: one.stat().st_mtime)
    except (OSError, ValueError):
        return snapshots / "REVISION"


def sealed_file(weights: Path) -> Path | None:
    """The first file or directory that this user may not read."""
    for path in (weights, *_entries(weights)):
        try:
            mode = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
        except OSError:
            return path
        if os.path.exists(path) and not os.access(path, mode):
            return path
    return None


def _entries(directory: Path) -> Iterator[Path]:
    """All below a directory but hidden names, links not followed; nothing for a file."""
    count = 0
    for parent, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in sorted((*directories, *files)):
            if name.startswith("."):
                continue
            count += 1
            if count > _MAX_ENTRIES:
                return
            yield Path(parent, name)


def _leaves(root: str, link: Path) -> bool | None:
    """Whether a link leaves the root; None if it leads to something below it.

    Follows part by part, since a way that leaves and comes back leads elsewhere in a container.
    """
    inside = os.path.relpath(os.path.realpath(link.parent), root)
    way = [] if inside == "." else inside.split("/")
    if ".." in way:
        return True
    rest, links = deque([link.name]), 0
    while rest:
        part = rest.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            if not way:
                return True
            way.pop()
            continue
        place = os.path.join(root, *way, part)
        if not os.path.islink(place):
            way.append(part)
            continue
        links += 1
        target = _target(Path(place))
        if target.startswith("/"):
            return True
        if links > _MAX_LINKS:
            return False
        rest.extendleft(reversed(target.split("/")))
    return None if os.path.lexists(os.path.join(root, *way)) else False


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
