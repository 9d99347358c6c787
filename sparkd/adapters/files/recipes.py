# SPDX-License-Identifier: Apache-2.0
"""The recipes of images: the Containerfiles of the package, and those of the host's admin."""

from __future__ import annotations

from collections.abc import Mapping

from sparkd.adapters.files.config_files import SHARE, config_paths
from sparkd.core.container.containerfile import Recipe, bases

_SHIPPED = SHARE / "containerfiles"


def recipes(environ: Mapping[str, str]) -> dict[str, Recipe]:
    """All recipes by name; the admin's goes before the package's of the same name."""
    own = config_paths(environ).settings.parent / "containerfiles"
    found: dict[str, Recipe] = {}
    for directory in (_SHIPPED, own):
        for file in sorted(directory.glob("*/Containerfile")):
            try:
                text = file.read_text(errors="replace")
            except OSError:
                continue
            name = file.parent.name
            found[name] = Recipe(name=name, directory=str(file.parent), bases=bases(text))
    return found
