#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the manual pages from docs/reference: `packaging/manpages.py DIRECTORY`.

Reads the part of Markdown that the reference is written in and no more: headings, paragraphs,
lists, tables, blocks of code, links. A table becomes a list of its first column, as no table of the
reference fits into the 80 columns of a terminal.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEADING = ("Meaning", "When", "Means", "What")
"""Headings of columns whose cells say by themselves what a row is about."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its name and section, its line in whatis(1), its source, its other names."""

    name: str
    section: int
    purpose: str
    source: str
    aliases: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.name}({self.section})"


PAGES = (
    Page("sparkctl", 1, "look at and control the models of sparkd", "cli.md"),
    Page(
        "sparkd.yaml",
        5,
        "settings, models and keys of sparkd",
        "configuration.md",
        ("sparkd-models.d",),
    ),
    Page("sparkd-errors", 7, "errors of sparkd and what to do about them", "errors.md"),
    Page("sparkd-http-api", 7, "endpoints of the gateway of sparkd", "http-api.md"),
    Page("sparkd-journal", 7, "events and fields of sparkd in the journal", "journal.md"),
    Page(
        "sparkd.service",
        8,
        "units, programs and files of sparkd",
        "units.md",
        (
            *("sparkd", "sparkd-comeback", "sparkd-idle", "sparkd-generator", "sparkd.socket"),
            *("sparkd-drop-caches.path", "sparkd-drop-caches.service", "sparkd-preload.service"),
            *("sparkd-comeback.service", "sparkd-idle@.service", "sparkd-load@.service"),
            *("sparkd-comeback.target", "sparkd.slice", "run-sparkd-models.mount"),
        ),
    ),
)


def write(directory: Path, version: str, date: str) -> None:
    """Write every page, and for each other name a page that includes it."""
    directory.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        text = (ROOT / "docs/reference" / page.source).read_text(encoding="utf-8")
        path = directory / f"{page.name}.{page.section}"
        path.write_text(render(page, text, version, date), encoding="utf-8")
        for alias in page.aliases:
            link = f".so man{page.section}/{path.name}\n"
            (directory / f"{alias}.{page.section}").write_text(link, encoding="utf-8")


def render(page: Page, markdown: str, version: str, date: str) -> str:
    """One page in the man macros."""
    names = ", ".join((page.name, *page.aliases))
    lines = [
        f'.TH {escape(page.name)} {page.section} {date} "sparkd {version}" "sparkd"',
        # Neither hyphenation nor stretched lines: what is copied from a page is what was meant.
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{escape(names)} \\- {escape(page.purpose)}",
    ]
    blocks = list(blocks_of(markdown))
    synopsis = next((block for block in blocks if block[0].startswith("```")), None)
    if page.section == 1 and synopsis:
        blocks.remove(synopsis)
        lines += [".SH SYNOPSIS", *code(synopsis)]
    lines.append(".SH DESCRIPTION")
    for block in blocks:
        lines += render_block(block, page)
    others = ", ".join(f"\\fB{escape(one.name)}\\fR({one.section})" for one in PAGES if one != page)
    lines += [".SH SEE ALSO", others]
    return "\n".join(lines) + "\n"


def blocks_of(markdown: str) -> Iterator[list[str]]:
    """The lines of each paragraph, heading, list item, table or block of code."""
    block: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        fence = line.lstrip().startswith("```")
        starts = re.match(r"#|\s*(-|\d+\.) ", line) or (fence and not fenced)
        starts = starts or (line.startswith("|") and not (block and block[0].startswith("|")))
        if not fenced and block and (not line.strip() or starts):
            yield block
            block = []
        if fenced or line.strip():
            block.append(line)
        fenced = fenced != fence
        if block and not fenced and (fence or line.startswith("#")):
            yield block
            block = []
    if block:
        yield block


def render_block(block: list[str], page: Page) -> Iterator[str]:
    first = block[0]
    if first.startswith("# "):
        return
    if heading := re.match(r"(##+) (.*)", first):
        macro = ".SH" if heading[1] == "##" else ".SS"
        yield f'{macro} "{inline(heading[2], page)}"'
    elif first.lstrip().startswith("```"):
        yield from code(block)
    elif first.startswith("|"):
        yield from table(block, page)
    elif item := re.match(r"\s*(-|\d+\.) (.*)", first):
        mark = "\\(bu" if item[1] == "-" else item[1]
        yield f".IP {mark} 4"
        yield from prose([item[2], *block[1:]], page)
    else:
        yield ".PP"
        yield from prose(block, page)


def code(block: list[str]) -> Iterator[str]:
    yield from (".PP", ".RS 4", ".nf")
    yield from (guarded(escape(line)) for line in block[1:-1])
    yield from (".fi", ".RE")


def table(block: list[str], page: Page) -> Iterator[str]:
    """Each row by its first cell; what it means comes first, the rest with its heading."""
    head, _, *rows = (cells(line) for line in block)
    plain = next((name for name in reversed(head[1:]) if name in LEADING or len(head) == 2), None)
    for first, *others in rows:
        yield ".TP"
        # Bold throughout: code in the cell ends in the same bold in which it began.
        yield guarded("\\fB" + inline(first, page).replace("\\fR", "\\fB") + "\\fR")
        said = dict(zip(head[1:], others, strict=True))
        lines = [said.pop(plain)] if plain else []
        lines += [f"{name}: {cell}" for name, cell in said.items() if cell]
        for number, line in enumerate(lines):
            yield from [".br"] * bool(number)
            yield from prose([line], page)


def cells(line: str) -> list[str]:
    split = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
    return [cell.strip().replace("\\|", "|") for cell in split]


def prose(lines: list[str], page: Page) -> Iterator[str]:
    for line in inline(" ".join(line.strip() for line in lines), page).split("\n"):
        yield guarded(line)


def inline(text: str, page: Page) -> str:
    """Code, emphasis and links of a run of text."""
    parts = re.split(r"(`` .+? ``|`[^`]+`)", text)
    shown = ""
    for index, part in enumerate(parts):
        if index % 2:
            shown += f"\\fB{escape(part.strip('`').strip())}\\fR"
        else:
            # A link may have code for its text, which was cut out: its two halves are in two parts.
            plain = re.sub(r"\]\(([^)]*)\)", lambda link: target(link[1], page), escape(part))
            plain = re.sub(r"\[(?!\])", "", plain)
            plain = re.sub(r"\*\*(.+?)\*\*", r"\\fB\1\\fR", plain)
            shown += re.sub(r"(?<![\w*])\*([^\s*][^*]*)\*(?!\w)", r"\\fI\1\\fR", plain)
    return shown


def target(link: str, page: Page) -> str:
    """What is said of a link's end: the page that it leads to, or the address."""
    link = link.replace("\\-", "-")
    if re.match("https?:", link):
        return f" <{escape(link)}>"
    source = Path(link.partition("#")[0]).name
    for other in PAGES:
        if other.source == source and other != page:
            return f" (\\fB{escape(other.name)}\\fR({other.section}))"
    return ""


def escape(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def guarded(line: str) -> str:
    """A line that groff does not take for a request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def main() -> None:
    version = re.search(r'"(.*)"', (ROOT / "sparkd/_version.py").read_text(encoding="utf-8"))
    assert version is not None
    # Of the changelog's last entry, as dpkg-buildpackage says it: the same pages at any time.
    built = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    write(Path(sys.argv[1]), version[1], f"{built:%Y-%m-%d}")


if __name__ == "__main__":
    main()
