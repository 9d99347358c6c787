# SPDX-License-Identifier: Apache-2.0
"""`sparkctl images`: the images of the catalog, the missing ones, and the commands to get them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sparkd.adapters.files.recipes import recipes
from sparkd.core.container.containerfile import LOCAL_PREFIX, Recipe
from sparkd.core.model import Config, Status
from sparkd.sparkctl import catalog, output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

_HEADER = ("IMAGE", "SIZE", "MODELS")
_GB = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """An image of the catalog or of a recipe, as in the JSON output."""

    image: str
    present: bool
    size_bytes: int | None
    models: tuple[str, ...]
    get: str | None
    """The command that gets it; None when no way is known."""


def run(options: Options) -> Exit:
    privileges.act_as_sparkd(options.words)
    config = catalog.load()
    # A local import: Podman's library takes longer to load than the rest of the command.
    from sparkd import runtime

    known = recipes(os.environ)
    names = {*needed_by(config), *(recipe.image for recipe in known.values())}
    sizes = asyncio.run(runtime.build().podman.image_sizes(sorted(names)))
    listed = listing(config, known, sizes)
    if options.json:
        output.print_json([asdict(one) for one in listed])
    else:
        print(text(listed))
    return Exit.OK


def needed_by(config: Config) -> dict[str, list[str]]:
    """The models of each image; disabled models need none."""
    found: dict[str, list[str]] = {}
    for spec in config.models.values():
        if spec.status is not Status.DISABLED:
            found.setdefault(spec.image, []).append(spec.model_id)
    return found


def listing(config: Config, known: Mapping[str, Recipe], sizes: Mapping[str, int]) -> list[Needed]:
    """Every image that models need, by name, then recipes that no model needs."""
    models = needed_by(config)
    recipe_of = {recipe.image: recipe for recipe in known.values()}
    unused = sorted(recipe_of.keys() - models.keys())
    return [
        Needed(
            image=image,
            present=image in sizes,
            size_bytes=sizes.get(image),
            models=tuple(sorted(models.get(image, ()))),
            get=_how_to_get(image, recipe_of.get(image)),
        )
        for image in [*sorted(models), *unused]
    ]


def text(listed: Sequence[Needed]) -> str:
    """The table, and below it the commands that get the missing images."""
    if not listed:
        return "no model needs an image: the catalog is empty"
    rows = [
        (
            one.image,
            f"{one.size_bytes / _GB:.1f} GB" if one.size_bytes is not None else "missing",
            ", ".join(one.models) or output.NOTHING,
        )
        for one in listed
    ]
    missing = [one for one in listed if not one.present and one.models]
    lines = [f"{one.image}: {one.get or 'load it with podman load'}" for one in missing]
    return "\n".join([output.table(_HEADER, rows), *lines])


def _how_to_get(image: str, recipe: Recipe | None) -> str | None:
    if recipe is not None:
        return f"sudo sparkctl build {recipe.name}"
    if image.startswith(LOCAL_PREFIX):
        return None
    return f"cd / && sudo -u sparkd podman pull {image}"
