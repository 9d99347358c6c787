# SPDX-License-Identifier: Apache-2.0
"""What tests of several modules need."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user can enter, for what must be refused by permission."""
    directory = Path(tempfile.mkdtemp(prefix="sparkd-files-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def as_nobody(open_dir: Path) -> Iterator[Path]:
    """The same directory, seen by a user to whom permissions apply."""
    if os.geteuid() == 0:
        os.chown(open_dir, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        yield open_dir
        os.seteuid(0)
    else:
        yield open_dir
