#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the manual pages from docs/reference: `packaging/manpages.py DIRECTORY`.

It reads only the Markdown that the reference uses: headings, paragraphs, lists, tables, blocks of
code, links. A table becomes a list of its first column, because no table of the reference fits
into the 80 columns of a terminal.
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
SHIPPED = "/usr/share/doc/sparkd/docs"
"""The package's directory of the documentation that has no manual page."""
STANDARD = ("Environment", "Examples", "Exit status", "Files")
"""Sections that man-pages(7) names; their headings are in capitals."""
LINK = re.compile(r"\[((?:`[^`]*`|[^\[\]`])+)\]\(([^()\s]+)\)")
LEADING = ("Meaning", "When", "Means", "What")
"""Headings of columns whose cells need no heading in a manual page."""


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
        lines += [".SH SYNOPSIS", ".PD 0", *commands(synopsis), ".PD"]
    lines.append(".SH DESCRIPTION")
    for block in blocks:
        lines += render_block(block, page)
    others = [f"\\fB{escape(one.name)}\\fR({one.section})" for one in PAGES if one != page]
    lines += [".SH SEE ALSO", ", ".join(others) + ","]
    lines += [f"and the other documentation in {escape(SHIPPED)}."]
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
        title = heading[2].upper() if heading[2] in STANDARD else heading[2]
        yield f'{macro} "{inline(title, page)}"'
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


def commands(block: list[str]) -> Iterator[str]:
    """A synopsis: one command a paragraph, wrapped between its options."""
    for command in re.sub(r"\n +", " ", "\n".join(block[1:-1])).splitlines():
        # A space that is not between two options or arguments does not break.
        words = re.findall(r"\[[^\[\]]*\]|\S+", command)
        yield ".HP 4"
        yield " ".join(escape(word).replace(" ", "\\ ") for word in words)


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
    """Code, emphasis and links of a run of text; all other brackets stay."""
    shown, after = "", 0
    for link in LINK.finditer(text):
        shown += formatted(text[after : link.start()]) + formatted(link[1]) + target(link[2], page)
        after = link.end()
    return shown + formatted(text[after:])


def formatted(text: str) -> str:
    """Code and emphasis of a run of text without links."""
    parts = re.split(r"(`` .+? ``|`[^`]+`)", text)
    shown = ""
    for index, part in enumerate(parts):
        if index % 2:
            shown += f"\\fB{escape(part.strip('`').strip())}\\fR"
        else:
            plain = re.sub(r"\*\*(.+?)\*\*", r"\\fB\1\\fR", escape(part))
            shown += re.sub(r"(?<![\w*])\*([^\s*][^*]*)\*(?!\w)", r"\\fI\1\\fR", plain)
    return shown


def target(link: str, page: Page) -> str:
    """The end of a link: the manual page, or the file of the package, or the address."""
    if re.match("https?:", link):
        return f" <{escape(link)}>"
    place = link.partition("#")[0]
    if not place:
        return ""
    path = (ROOT / "docs/reference" / place).resolve()
    for other in PAGES:
        if path == ROOT / "docs/reference" / other.source:
            return f" (\\fB{escape(other.name)}\\fR({other.section}))" if other != page else ""
    docs = ROOT / "docs"
    return f" ({escape(f'{SHIPPED}/{path.relative_to(docs)}')})" if docs in path.parents else ""


def escape(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def guarded(line: str) -> str:
    """The line, escaped so that groff does not read it as a request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def main() -> None:
    source = (ROOT / "sparkd/_version.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    assert version is not None
    # Of the changelog's last entry, as dpkg-buildpackage says it: the same pages at any time.
    built = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    write(Path(sys.argv[1]), version[1], f"{built:%Y-%m-%d}")


if __name__ == "__main__":
    main()
