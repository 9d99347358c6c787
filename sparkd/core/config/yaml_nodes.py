# SPDX-License-Identifier: Apache-2.0
"""YAML text to nodes that know their line and path, and the problems found on the way.

Owns everything peculiar to YAML: syntax errors, aliases, duplicate and merge keys, tags, what
counts as text. Nodes are read, never constructed into objects, so no tag can run anything. Knows
no key of sparkd and opens no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
)
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sparkd.core.config.suggestions import list_hint
from sparkd.core.model import Problem

Loader = type[yaml.SafeLoader] | type[yaml.CSafeLoader]

LOADER: Final[Loader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where PyYAML was built with it: thirteen times faster."""

MAX_DEPTH: Final = 32
"""The C composer recurses on the C stack and takes the process with it at some 25,000 levels."""
MAX_NODES: Final = 100_000
"""With every alias written out; the whole catalog of a big host has some 3,000."""

_QUOTED_CHARS = 60
_TAG = "tag:yaml.org,2002:"
_STR, _INT, _BOOL, _NULL = (f"{_TAG}{name}" for name in ("str", "int", "bool", "null"))
_MERGE = f"{_TAG}merge"
_WORDS = {
    _STR: "text",
    _INT: "the number",
    f"{_TAG}float": "the number",
    _BOOL: "the true/false value",
    _NULL: "nothing",
    f"{_TAG}timestamp": "the date",
    f"{_TAG}value": "text",
    _MERGE: "text",
    f"{_TAG}seq": "a list",
    f"{_TAG}map": "a mapping",
}
_TRUE = frozenset({"true", "yes", "on"})
# What YAML forbids in any text; compiled by PyYAML already, which takes 8 ms.
_UNPRINTABLE: Final[re.Pattern[str]] = yaml.reader.Reader.NON_PRINTABLE


def shorten(text: str) -> str:
    """The text quoted for a message, on one line and not longer than a line."""
    return repr(text if len(text) <= _QUOTED_CHARS else f"{text[:_QUOTED_CHARS]}…")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node, where it stands, and the list into which problems with it go."""

    source: str
    line: int
    path: str
    node: Node
    problems: list[Problem] = field(default_factory=list)

    def report(self, message: str, hint: str = "") -> None:
        self.problems.append(
            Problem(source=self.source, line=self.line, path=self.path, message=message, hint=hint)
        )

    def report_instead_of(self, wanted: str, hint: str = "") -> None:
        self.report(f"wanted {wanted}, found {self.found}", hint)

    def isolated(self) -> Place:
        """The same place with a problem list of its own."""
        return Place(source=self.source, line=self.line, path=self.path, node=self.node)

    @property
    def found(self) -> str:
        word = _WORDS.get(self.node.tag, f"the unsupported tag {shorten(self.node.tag)}")
        if isinstance(self.node, ScalarNode) and self.node.value:
            return f"{word} {shorten(self.node.value)}"
        return "an empty text" if self.node.tag == _STR else word

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.node, MappingNode)

    def entries(self) -> list[tuple[str, Place]]:
        """Keys with their values, in order; nothing at all counts as an empty mapping."""
        if self.node.tag == _NULL:
            return []
        if not isinstance(self.node, MappingNode) or self.node.tag != f"{_TAG}map":
            self.report_instead_of("a mapping (key: value)")
            return []
        found: dict[str, Place] = {}
        for key, value in self.node.value:
            name = self._key_name(key)
            if name is None:
                continue
            child = self._child(value, key.start_mark.line + 1, f".{name}")
            if name in found:
                child.report(
                    f"key {shorten(name)} is here twice, first in line {found[name].line}",
                    "keep one of the two",
                )
            else:
                found[name] = child
        return list(found.items())

    def items(self, *, words: bool = False) -> list[Place]:
        """The members of a list, in order; nothing at all counts as an empty list.

        `words` of a command line are separated in the hint that follows a text in its place.
        """
        if self.node.tag == _NULL:
            return []
        if not isinstance(self.node, SequenceNode) or self.node.tag != f"{_TAG}seq":
            one = isinstance(self.node, ScalarNode) and self.node.tag in _WORDS
            hint = list_hint(self.node.value, words=words) if one else "write a list: [ITEM, ITEM]"
            self.report_instead_of("a list", hint)
            return []
        return [
            self._child(node, node.start_mark.line + 1, f"[{index}]")
            for index, node in enumerate(self.node.value)
        ]

    def text(self, wanted: str = "text") -> str | None:
        """The value of a text; what YAML takes for a number or a date must be quoted."""
        if isinstance(self.node, ScalarNode) and self.node.tag == _STR:
            return str(self.node.value)
        quotable = isinstance(self.node, ScalarNode) and self.node.value
        self.report_instead_of(wanted, f'quote it: "{self.node.value}"' if quotable else "")
        return None

    def scalar(self, wanted: str = "text or a number", *, hint_if_nothing: str = "") -> str | None:
        """The text of any scalar as it was written: `0.80` stays `0.80`, `true` stays `true`."""
        node = self.node
        if isinstance(node, ScalarNode) and node.tag in _WORDS and node.tag != _NULL:
            return str(node.value)
        self.report_instead_of(wanted, hint_if_nothing if node.tag == _NULL else "")
        return None

    def flag(self) -> bool | None:
        if isinstance(self.node, ScalarNode) and self.node.tag == _BOOL:
            return self.node.value.lower() in _TRUE
        self.report_instead_of("true or false", "without quotes" if self.node.tag == _STR else "")
        return None

    def number(self, wanted: str) -> int | None:
        """A whole number in decimal; YAML's octal and sexagesimal forms (`010`, `1:30`) are not."""
        if isinstance(self.node, ScalarNode) and self.node.tag == _INT:
            digits = self.node.value.replace("_", "")
            if re.fullmatch(r"-?(?:0|[1-9][0-9]{0,17})", digits):
                return int(digits)
        self.report_instead_of(wanted, "digits only, without quotes")
        return None

    def _key_name(self, key: Node) -> str | None:
        place = self._child(key, key.start_mark.line + 1, "")
        if key.tag == _MERGE:
            place.report(
                "merge keys (<<) are not supported",
                "write the keys out; keys that all entries of a file share go under defaults:",
            )
        elif not isinstance(key, ScalarNode) or key.tag not in _WORDS:
            place.report(f"wanted a name as key, found {place.found}")
        else:
            return str(key.value)
        return None

    def _child(self, node: Node, line: int, step: str) -> Place:
        path = f"{self.path}{step}" if self.path else step.removeprefix(".")
        return Place(source=self.source, line=line, path=path, node=node, problems=self.problems)


def compose(
    text: str, source: str, problems: list[Problem], loader: Loader = LOADER
) -> Place | None:
    """The top of a YAML document; None when it is empty or (with problems added) unusable."""
    try:
        unusable = _unprintable(text) or _untame(text, loader)
        if not unusable:
            node = yaml.compose(text, Loader=loader)
            top = Place(source=source, line=1, path="", node=node, problems=problems)
            return top if isinstance(node, Node) else None
        line, message, hint = unusable
    except yaml.MarkedYAMLError as error:
        line, message, hint = _explain(error, text)
    problems.append(Problem(source=source, line=line, path="", message=message, hint=hint))
    return None


def _unprintable(text: str) -> tuple[int, str, str] | None:
    match = _UNPRINTABLE.search(text)
    if match is None:
        return None
    line = text.count("\n", 0, match.start()) + 1
    return line, f"not text: control character U+{ord(match[0]):04X}", "remove it"


class _Tally:
    """Counts depth and nodes over parse events, with every alias written out."""

    def __init__(self) -> None:
        self._nodes = 0
        self._open: list[tuple[str | None, int]] = []
        self._sizes: dict[str, int] = {}

    def objection(self, event: Event) -> tuple[str, str] | None:
        """What is wrong with the document at this event, and a hint."""
        if isinstance(event, CollectionEndEvent):
            anchor, before = self._open.pop()
            self._remember(anchor, self._nodes - before)
        elif isinstance(event, NodeEvent):
            if isinstance(event, AliasEvent) and any(event.anchor == a for a, _ in self._open):
                return f"alias *{event.anchor} contains itself", "write the value out"
            self._count(event)
        if len(self._open) > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH} levels", "is this a sparkd file?"
        if self._nodes > MAX_NODES:
            return f"more than {MAX_NODES} values, aliases written out", "use fewer aliases"
        return None

    def _count(self, event: NodeEvent) -> None:
        if isinstance(event, AliasEvent):
            self._nodes += self._sizes.get(str(event.anchor), 1)
            return
        if isinstance(event, CollectionStartEvent):
            self._open.append((event.anchor, self._nodes))
        self._nodes += 1
        if isinstance(event, ScalarEvent):
            self._remember(event.anchor, 1)

    def _remember(self, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._sizes[anchor] = size


def _untame(text: str, loader: Loader) -> tuple[int, str, str] | None:
    """The first place where a document grows beyond what may safely be composed."""
    tally = _Tally()
    for event in yaml.parse(text, Loader=loader):
        objection = tally.objection(event)
        if objection:
            return event.start_mark.line + 1, *objection
    return None


def _explain(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str, str]:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    message = f"not valid YAML: {error.problem or error.context}"
    if error.problem and error.context:
        message += f", {error.context}"
        if error.context_mark and error.context_mark.line + 1 != line:
            message += f" of line {error.context_mark.line + 1}"
    lines = text.splitlines()
    tabbed = line <= len(lines) and "\t" in lines[line - 1]
    return line, message, "indent with spaces, not tabs" if tabbed else ""
