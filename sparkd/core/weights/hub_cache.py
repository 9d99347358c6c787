# SPDX-License-Identifier: Apache-2.0
"""The layout of Hugging Face's cache: snapshots whose files are links to blobs beside them.

`models--ORG--NAME/snapshots/REVISION/config.json` links to `../../blobs/HASH`. A container sees
such a snapshot only together with its repository. Pure.
"""

from __future__ import annotations

from pathlib import Path

_REPOSITORY = "models--"
_SNAPSHOTS = "snapshots"


def mount_root(weights: Path) -> Path:
    """The directory to mount for weights: a snapshot's repository, otherwise the weights."""
    snapshots = weights.parent
    repository = snapshots.parent
    if snapshots.name == _SNAPSHOTS and repository.name.startswith(_REPOSITORY):
        return repository
    return weights
