#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Copies README and docs/ into a directory in the form that the package ships.

A link to a file that the package does not ship becomes plain text.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = (".md", ".json", ".yml", ".png")
LINK = re.compile(r"(!?)\[((?:`[^`]*`|[^\[\]`])*)\]\(([^()\s]+)\)")


def copy(directory: Path) -> None:
    docs = [path for path in sorted((ROOT / "docs").rglob("*")) if path.suffix in KINDS]
    shipped = {ROOT / "README.md", *docs}
    for path in sorted(shipped):
        copied = directory / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            copied.write_text(linked(text, path, shipped), encoding="utf-8")
        else:
            copied.write_bytes(path.read_bytes())


def linked(text: str, path: Path, shipped: set[Path]) -> str:
    """The text of a page with the links that lead to what is shipped, or to an address."""

    def kept(link: re.Match[str]) -> str:
        place = link[3].partition("#")[0]
        leads = not place or ":" in place or (path.parent / place).resolve() in shipped
        return link[0] if leads else link[2]

    return LINK.sub(kept, text)


if __name__ == "__main__":
    copy(Path(sys.argv[1]))
