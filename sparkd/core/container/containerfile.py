# SPDX-License-Identifier: Apache-2.0
"""The base images of a Containerfile, and the image that it builds."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOCAL_PREFIX = "localhost/"
_IMAGE_PREFIX = f"{LOCAL_PREFIX}sparkd-"
_TAG = ":latest"
_ARG = re.compile(r"^ARG\s+(\w+)=(\S+)", re.IGNORECASE)
_FROM = re.compile(r"^FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?\s*$", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A directory with a Containerfile, which is the context of its build too."""

    name: str
    directory: str
    bases: tuple[str, ...]

    @property
    def image(self) -> str:
        return f"{_IMAGE_PREFIX}{self.name}{_TAG}"

    @property
    def local_bases(self) -> tuple[str, ...]:
        """Those that are built on this host too."""
        return tuple(base for base in self.bases if base.startswith(LOCAL_PREFIX))


def recipe_name(text: str) -> str:
    """The name of a recipe, from it or from what its image is called."""
    return text.removeprefix(LOCAL_PREFIX).removeprefix("sparkd-").removesuffix(_TAG)


def bases(text: str) -> tuple[str, ...]:
    """The images of all FROM lines, with the defaults of ARG put in; not other stages."""
    arguments: dict[str, str] = {}
    stages: set[str] = set()
    found: list[str] = []
    for line in text.splitlines():
        if match := _ARG.match(line):
            arguments[match[1]] = match[2]
        elif match := _FROM.match(line):
            image = resolve(match[1], arguments)
            if image not in stages and image not in found:
                found.append(image)
            if match[2]:
                stages.add(match[2])
    return tuple(found)


def resolve(word: str, arguments: dict[str, str]) -> str:
    """The word with the variables that are known put in."""

    def value(match: re.Match[str]) -> str:
        return arguments.get(match[1] or match[2], match[0])

    return _VARIABLE.sub(value, word)
