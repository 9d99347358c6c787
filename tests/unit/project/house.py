# SPDX-License-Identifier: Apache-2.0
"""The packages of the program with their first docstring lines, as docs/HACKING.md shows them.

`python -m tests.unit.project.house` prints the tree.
"""

from __future__ import annotations

import ast

from tests.unit.project.sources import PATHS, ROOT, tree

_WIDTH = 20


def lines() -> list[str]:
    """The tree of packages below `sparkd/`, one line each, deepest last."""
    found = ["sparkd/"]
    for path in PATHS:
        package = path.parent.relative_to(ROOT / "sparkd")
        if path.name == "__init__.py" and package.parts:
            name = f"{'  ' * len(package.parts)}{package.name}/"
            found.append(f"{name:{_WIDTH}}{summary(tree(path))}")
    return found


def summary(source: ast.Module) -> str:
    """The first line of a docstring."""
    text = ast.get_docstring(source)
    assert text, "a package says what it is"
    return text.split("\n")[0]


if __name__ == "__main__":
    print("\n".join(lines()))
