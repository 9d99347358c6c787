# SPDX-License-Identifier: Apache-2.0
"""A directory that a stranger wrote to goes as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sparkd.adapters.files.trees import remove_tree


async def test_tree_is_removed_however_deep_it_is_and_though_it_is_closed(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    top = tmp_path / "top"
    nest = "import os\nfor _ in range(3000):\n os.mkdir('d')\n os.chdir('d')\nos.chmod('.', 0)"
    top.mkdir()
    (top / "link").symlink_to(tmp_path / "kept")
    subprocess.run([sys.executable, "-c", nest], cwd=top, check=True)
    await remove_tree(top)
    assert os.listdir(tmp_path) == ["kept"]
    await remove_tree(top)
