# SPDX-License-Identifier: Apache-2.0
"""The kinds of values of configuration keys, and the reading of a table of keys.

A kind knows what it wants, which range it takes, how to read it and how to show it; parser,
documentation and commented example all follow the same row. Which keys there are is
`core.config.model_keys`'s, and the kinds that only a model's entry has are in
`core.config.model_kinds`.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sparkd.core.config.suggestions import FOREIGN_KEYS, duration_hint, size_hint
from sparkd.core.config.yaml_nodes import Place, shorten
from sparkd.core.errors import RequestError
from sparkd.core.quantities import format_duration, format_size, parse_duration, parse_size


class Kind(ABC):
    """One sort of value; `read` reports what is wrong and then returns whatever it likes."""

    __slots__ = ()

    @property
    @abstractmethod
    def wanted(self) -> str:
        """For messages and tables: `a duration`."""

    @property
    @abstractmethod
    def limits(self) -> str:
        """The range in words, empty where there is none."""

    @abstractmethod
    def read(self, at: Place) -> object: ...

    def show(self, value: object) -> str:
        """A default as it would be written in the file."""
        if value is None:
            return "none"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, tuple):
            return f"[{', '.join(str(item) for item in value)}]"
        return str(value) or '""'


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One row: a key of a file, the dataclass field it fills, and all there is to say of it."""

    name: str
    field: str
    kind: Kind
    doc: str
    default: str | None = None
    """The default in words, where it is not that of the dataclass."""


def table(*keys: Key) -> Mapping[str, Key]:
    return {key.name: key for key in keys}


def read_keys(at: Place, keys: Mapping[str, Key]) -> dict[str, object]:
    """Field values of a mapping; what is wrong with any of them is in `at.problems`."""
    values: dict[str, object] = {}
    for name, child in at.entries():
        key = keys.get(name)
        if key is None:
            hint = FOREIGN_KEYS.get(name) if "image" in keys else None
            child.report(f"unknown key {shorten(name)}", hint or nearest(name, keys))
        else:
            values[key.field] = key.kind.read(child)
    return values


def nearest(name: str, known: Mapping[str, object]) -> str:
    """The hint of an unknown name."""
    import difflib  # only a wrong file pays for it

    close = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(sorted(known))}"


@dataclass(frozen=True, slots=True)
class Duration(Kind):
    least_s: float
    most_s: float

    @property
    def wanted(self) -> str:
        return "a duration"

    @property
    def limits(self) -> str:
        return f"{self.show(self.least_s)} to {self.show(self.most_s)}"

    def read(self, at: Place) -> float | None:
        text = at.scalar(self.wanted)
        if text is None:
            return None
        try:
            duration_s = parse_duration(text)
        except RequestError as error:
            at.report(error.message, duration_hint(text, self.least_s, self.most_s))
            return None
        if not self.least_s <= duration_s <= self.most_s:
            at.report(f"{text!r} is out of range", self.limits)
        return duration_s

    def show(self, value: object) -> str:
        assert isinstance(value, float | int)
        return format_duration(value)


@dataclass(frozen=True, slots=True)
class Size(Kind):
    least_bytes: int
    most_bytes: int
    or_none: bool = False
    """Whether `none` may be written, for no limit."""

    @property
    def wanted(self) -> str:
        return "a size"

    @property
    def limits(self) -> str:
        limits = f"{format_size(self.least_bytes)} to {format_size(self.most_bytes)}"
        return f"{limits}, or none" if self.or_none else limits

    def read(self, at: Place) -> int | None:
        text = at.scalar(self.wanted)
        if text is None or (self.or_none and text == "none"):
            return None
        try:
            size_bytes = parse_size(text)
        except RequestError as error:
            at.report(error.message, size_hint(text, self.least_bytes, self.most_bytes))
            return None
        if not self.least_bytes <= size_bytes <= self.most_bytes:
            at.report(f"{text!r} is out of range", self.limits)
        return size_bytes

    def show(self, value: object) -> str:
        return format_size(value) if isinstance(value, int) else "none"


@dataclass(frozen=True, slots=True)
class Count(Kind):
    least: int
    most: int

    @property
    def wanted(self) -> str:
        return "a whole number"

    @property
    def limits(self) -> str:
        return f"{self.least} to {self.most}"

    def read(self, at: Place) -> int | None:
        number = at.number(self.wanted)
        if number is not None and not self.least <= number <= self.most:
            at.report(f"'{number}' is out of range", self.limits)
        return number


class Flag(Kind):
    __slots__ = ()

    @property
    def wanted(self) -> str:
        return "true or false"

    @property
    def limits(self) -> str:
        return "true, false"

    def read(self, at: Place) -> bool | None:
        return at.flag()


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    options: type[StrEnum]

    @property
    def wanted(self) -> str:
        return "one word"

    @property
    def limits(self) -> str:
        return ", ".join(self.options)

    def read(self, at: Place) -> StrEnum | None:
        text = at.scalar(f"one of {self.limits}")
        if text is None:
            return None
        if text not in list(self.options):
            at.report(f"{shorten(text)} is not one of {self.limits}", self._suggest(text))
            return None
        return self.options(text)

    def _suggest(self, text: str) -> str:
        hint = nearest(text, {str(option): None for option in self.options})
        return hint if hint.startswith("did") else ""


@dataclass(frozen=True, slots=True)
class Choices(Kind):
    """A list of some of the options, each once."""

    options: type[StrEnum]
    may_be_empty: bool = False

    @property
    def wanted(self) -> str:
        return "a list"

    @property
    def limits(self) -> str:
        return f"some of {', '.join(self.options)}"

    def read(self, at: Place) -> tuple[StrEnum | None, ...]:
        before = len(at.problems)
        chosen: list[StrEnum | None] = []
        for item in at.items():
            choice = Choice(self.options).read(item)
            if choice is not None and choice in chosen:
                item.report(f"'{choice}' is here twice", "keep one of the two")
            chosen.append(choice)
        if not chosen and not self.may_be_empty and len(at.problems) == before:
            at.report("the list is empty", f"name {self.limits}")
        return tuple(chosen)


@dataclass(frozen=True, slots=True)
class Names(Kind):
    """A list of model ids; whether they exist is known only when every file was read."""

    limits_text: str = "ids of models"

    @property
    def wanted(self) -> str:
        return "a list"

    @property
    def limits(self) -> str:
        return self.limits_text

    def read(self, at: Place) -> tuple[str, ...]:
        return tuple(text for item in at.items() if (text := item.scalar("a model id")) is not None)


@dataclass(frozen=True, slots=True)
class Texts(Kind):
    """A list of texts that match a pattern."""

    pattern: str
    item: str
    limits_text: str

    @property
    def wanted(self) -> str:
        return "a list"

    @property
    def limits(self) -> str:
        return self.limits_text

    def read(self, at: Place) -> tuple[str, ...]:
        texts = [(item, item.text(self.item)) for item in at.items()]
        for item, text in texts:
            if text is not None and not re.fullmatch(self.pattern, text):
                item.report(f"{shorten(text)} is not {self.item}", self.limits_text)
        return tuple(text for _, text in texts if text is not None)

    def show(self, value: object) -> str:
        items = value if isinstance(value, tuple) else ()
        return f"[{', '.join(json.dumps(item) for item in items)}]"


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """One line of text; with a pattern, one that matches it."""

    wanted_text: str = "one line of text"
    pattern: str = r"[^\n]*"
    hint: str = ""
    limits_text: str = ""
    numbers_too: bool = False

    @property
    def wanted(self) -> str:
        return self.wanted_text

    @property
    def limits(self) -> str:
        return self.limits_text

    def read(self, at: Place) -> str | None:
        text = at.scalar(self.wanted) if self.numbers_too else at.text(self.wanted)
        if text is None:
            return None
        # A folded scalar (`>`) ends with a line break that is not intended.
        text = text.rstrip("\n")
        if not re.fullmatch(self.pattern, text):
            at.report(f"{shorten(text)} is not {self.wanted}", self.hint)
        return text


@dataclass(frozen=True, slots=True)
class AllOrNone(Text):
    """A name, or `none` for nothing."""

    def read(self, at: Place) -> str | None:
        text = Text.read(self, at)
        return None if text == "none" else text
