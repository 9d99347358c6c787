# SPDX-License-Identifier: Apache-2.0
"""`sparkctl build`: build an image from its recipe, with the Podman of the user sparkd.

The build runs as a unit of that user's service manager, not in the caller's session, so that it
leaves no processes in root's session. Ctrl-C stops the unit.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import subprocess
import sys
import time

from sparkd.adapters.files.recipes import recipes
from sparkd.core.container.containerfile import Recipe, recipe_name
from sparkd.core.errors import HostError, NotFound
from sparkd.sparkctl import output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit


def run(options: Options) -> Exit:
    privileges.act_as_sparkd(options.words)
    known = recipes(os.environ)
    recipe = find(known, options.image)
    _require_bases(recipe, known)
    began_s = time.monotonic()
    _build(recipe, options.options)
    took_s = time.monotonic() - began_s
    if options.json:
        output.print_json({"image": recipe.image, "seconds": round(took_s, 3)})
    else:
        print(f"{recipe.image} is built, after {output.age(took_s)}")
    return Exit.OK


def find(known: dict[str, Recipe], wanted: str) -> Recipe:
    """The recipe by its name or its image's name. Raises NotFound with the nearest name."""
    name = recipe_name(wanted)
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "sudo sparkctl images lists them"
    raise NotFound(f"there is no recipe for an image {wanted!r}", hint=hint, code="image_unknown")


def command(recipe: Recipe, extra: tuple[str, ...]) -> list[str]:
    """The command that builds in a unit of the user's manager and waits for it."""
    return [
        *("systemd-run", "--user", "--quiet", "--wait", "--pipe", "--collect"),
        *(f"--unit={unit(recipe)}", f"--description=Build of {recipe.image}"),
        "--",
        *("podman", "build", "--tag", recipe.image, *extra, recipe.directory),
    ]


def unit(recipe: Recipe) -> str:
    """One per recipe, so that the same image is not built twice at the same time."""
    return f"sparkd-build-{recipe.name}.service"


def base_missing(recipe: Recipe, base: str, known: dict[str, Recipe]) -> NotFound:
    """The error for a missing base image, with a hint on how to build it."""
    name = recipe_name(base)
    by_hand = f"no recipe makes it; {recipe.directory} says how to"
    return NotFound(
        f"{recipe.image} is built on {base}, which is not there",
        hint=f"sudo sparkctl build {name}" if name in known else by_hand,
        code="image_unknown",
    )


def _require_bases(recipe: Recipe, known: dict[str, Recipe]) -> None:
    """Raise NotFound for a missing local base; Podman would request it from a registry."""
    if not recipe.local_bases:
        return
    from sparkd import runtime

    there = asyncio.run(runtime.build().podman.image_sizes(recipe.local_bases))
    for base in recipe.local_bases:
        if base not in there:
            raise base_missing(recipe, base, known)


def _build(recipe: Recipe, extra: tuple[str, ...]) -> None:
    try:
        # stdout is for results, so Podman's progress output goes to stderr.
        done = subprocess.run(command(recipe, extra), stdout=sys.stderr, check=False)
    except KeyboardInterrupt:
        stop = ["systemctl", "--user", "stop", unit(recipe)]
        subprocess.run(stop, capture_output=True, check=False)
        raise
    except OSError as error:
        raise HostError(f"systemd-run cannot be started: {error.strerror}") from error
    if done.returncode != 0:
        raise HostError(
            f"the build of {recipe.image} ended with exit code {done.returncode}",
            hint=f"Podman's output is above; the recipe is {recipe.directory}/Containerfile",
            code="build_failed",
        )
