# SPDX-License-Identifier: Apache-2.0
"""The image of the fake engine: the base system and a few Python files.

Owns which files go where in the image. What they do is in fake-vllm/.
"""

import platform
from pathlib import Path

from nspawn_host import cache
from nspawn_host.console import say

from . import archive as image_archive
from . import base

IMAGE = "localhost/sparkd-fake-vllm:latest"
SOURCES = Path(__file__).resolve().parent.parent / "fake-vllm"
CODE_DIR = "/opt/fake-vllm"
COMMAND = "/usr/local/bin/vllm"
CONFIG = {
    "Env": [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONDONTWRITEBYTECODE=1",
    ],
    "Cmd": ["vllm"],
}


def archive() -> Path:
    tree = base.tarball()
    files = {
        f"{CODE_DIR}/{path.name}": (path.read_bytes(), 0o644)
        for path in sorted(SOURCES.glob("*.py"))
    }
    files[COMMAND] = ((SOURCES / "vllm").read_bytes(), 0o755)
    parts = [f"{name}\n{content!r}" for name, (content, _) in files.items()]
    key = cache.key_of(tree.name, repr(CONFIG), *parts)

    def write(unfinished: Path) -> None:
        say(f"write the image {IMAGE}")
        layer = unfinished.with_name(f"{unfinished.name}.layer")
        image_archive.file_layer(layer, files)
        image_archive.write_image(
            unfinished,
            tag=IMAGE,
            machine=platform.machine(),
            layers=[tree, layer],
            config=CONFIG,
        )
        layer.unlink()

    return cache.entry(f"engines/fake-vllm-{key}.tar", write)
