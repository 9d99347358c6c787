# SPDX-License-Identifier: Apache-2.0
"""The kinds of values that only a model's entry has: command lines, environments, files, clients.

They are kinds as those of `core.config.kinds` are; which keys have them is
`core.config.model_keys`'s, and what must hold between keys is `core.config.load`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkd.core.config.kinds import Key, Kind, nearest, read_keys
from sparkd.core.config.suggestions import weights_hint
from sparkd.core.config.yaml_nodes import Place, shorten
from sparkd.core.engine.arguments import normalized, reserved_option, written_option
from sparkd.core.model import (
    HEALTH_PATH,
    Adapter,
    Client,
    ClientLimits,
    Engine,
    HostFile,
    Placeholder,
    Weights,
)

_EMPTY = 'write "" for an empty text'
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_PLACEHOLDER = re.compile(r"\{[A-Za-z_]+\}")
_PATH = re.compile(r"(?!.*//)(?!.*/\.\.?(?:/|$))/[^\n]*[^\n/]")
OWN_PLACES = ("/run/sparkd", "/models", "/cache", "/tmp", "/proc", "/sys", "/dev")
"""What a container has at these paths is decided by sparkd or the kernel."""


@dataclass(frozen=True, slots=True)
class Arguments(Kind):
    """A list of command-line words; those that sparkd decides itself are refused by name."""

    reserved: Mapping[str, tuple[str, str]]
    """Option without its dashes to the reason and the hint."""

    @property
    def wanted(self) -> str:
        return "a list of words"

    @property
    def limits(self) -> str:
        return "not what [sparkd decides](#args-that-sparkd-decides)"

    def read(self, at: Place) -> tuple[str, ...]:
        return tuple(self._word(item) for item in at.items(words=True))

    def _word(self, at: Place) -> str:
        word = at.scalar(hint_if_nothing=_EMPTY) or ""
        # Only the option's name goes into a message: its value may be a secret.
        option = written_option(word)
        if option is not None:
            self._check_option(option, word[len(option) :], at)
        return word

    def _check_option(self, option: str, rest: str, at: Place) -> None:
        name = reserved_option(option, self.reserved)
        if name is not None:
            reason, hint = self.reserved[name]
            exact = normalized(option) in (name, f"no-{name}")
            meant = repr(option) if exact else f"{option!r}, which can mean --{name},"
            at.report(f"{meant} is decided by sparkd: {reason}", hint)
        elif rest[:1].isspace():
            at.report(
                f"{option!r} and its value are one word here",
                f"make them two items, or write {option}=VALUE",
            )


@dataclass(frozen=True, slots=True)
class Environment(Kind):
    """A mapping of variable names to scalars; those that sparkd decides itself are refused."""

    reserved: Mapping[str, tuple[str, str]]

    @property
    def wanted(self) -> str:
        return "a mapping of names to values"

    @property
    def limits(self) -> str:
        return f"not {', '.join(self.reserved)}"

    def read(self, at: Place) -> dict[str, str]:
        return {name: self._value(name, child) for name, child in at.entries()}

    def _value(self, name: str, at: Place) -> str:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            at.report(f"{shorten(name)} is not a variable name", "letters, digits and _ only")
        if name in self.reserved:
            reason, hint = self.reserved[name]
            at.report(f"{name!r} is decided by sparkd: {reason}", hint)
        return at.scalar(hint_if_nothing=_EMPTY) or ""


@dataclass(frozen=True, slots=True)
class WeightsChoice(Kind):
    """`none`, or a mapping with `path` or `repo`; a repository's path is left relative."""

    keys: Mapping[str, Key]

    @property
    def wanted(self) -> str:
        return "none or a mapping"

    @property
    def limits(self) -> str:
        return f"keys {', '.join(self.keys)}"

    def read(self, at: Place) -> Weights | None:
        if not at.is_mapping:
            self._read_none(at)
            return None
        inner = at.isolated()
        values: dict[str, Any] = read_keys(inner, self.keys)
        at.problems.extend(inner.problems)
        path, repo = values.get("path"), values.get("repo")
        if inner.problems:
            return None
        if not path and not repo:
            at.report("neither path nor repo is given", "add repo: ORG/NAME or path: /DIRECTORY")
        for name in ("revision", "include", "exclude"):
            if values.get(name) and not repo:
                article = "a revision" if name == "revision" else name
                at.report(f"{article} without a repo says nothing", "add repo: ORG/NAME")
        return Weights(**{**values, "path": Path(path or str(repo).replace("/", "--"))})

    def _read_none(self, at: Place) -> None:
        text = at.scalar("none or a mapping with path or repo")
        if text is not None and text != "none":
            at.report(
                f"wanted none or a mapping with path or repo, found {at.found}", weights_hint(text)
            )


@dataclass(frozen=True, slots=True)
class Adapters(Kind):
    """A mapping of ids to weights with `path` or `repo`."""

    weights: WeightsChoice

    @property
    def wanted(self) -> str:
        return "a mapping of ids to weights"

    @property
    def limits(self) -> str:
        return f"weights with {self.weights.limits}"

    def read(self, at: Place) -> tuple[Adapter, ...]:
        read = ((name, child, self.weights.read(child)) for name, child in at.entries())
        adapters = []
        for name, child, weights in read:
            if weights is None:
                child.report("an adapter without weights", "write {repo: ORG/NAME} or {path: /DIR}")
            else:
                adapters.append(Adapter(name=name, weights=weights))
        return tuple(adapters)


class Lines(Kind):
    """A list of texts, each of one line."""

    wanted = "a list of lines"
    limits = ""

    def read(self, at: Place) -> tuple[str, ...]:
        texts = (item.text("one line of text") for item in at.items())
        return tuple(text for text in texts if text is not None)


@dataclass(frozen=True, slots=True)
class EngineChoice(Kind):
    """`vllm`, or a mapping with the command of another server."""

    keys: Mapping[str, Key]

    @property
    def wanted(self) -> str:
        return "vllm or a mapping"

    @property
    def limits(self) -> str:
        return f"keys {', '.join(self.keys)}"

    def read(self, at: Place) -> Engine | None:
        if not at.is_mapping:
            text = at.scalar("vllm or a mapping with command")
            if text is not None and text != "vllm":
                at.report(
                    f"{shorten(text)} is not vllm", "write engine: {command: [...]} for another"
                )
            return None
        inner = at.isolated()
        read = read_keys(inner, self.keys)
        command, health = read.get("command"), read.get("health", HEALTH_PATH)
        at.problems.extend(inner.problems)
        if not command and not inner.problems:
            at.report("no command is given", "add command: [PROGRAM, ...]")
        if not isinstance(command, tuple) or not isinstance(health, str):
            return None
        return Engine(command=command, health=health)


class CommandWords(Kind):
    """A list of command-line words in which placeholders stand."""

    wanted = "a list of words"
    limits = f"with {', '.join(f'`{one}`' for one in Placeholder)}"

    def read(self, at: Place) -> tuple[str, ...]:
        return tuple(self._word(item) for item in at.items(words=True))

    def _word(self, at: Place) -> str:
        word = at.scalar(hint_if_nothing=_EMPTY) or ""
        for name in _PLACEHOLDER.findall(word):
            if name not in list(Placeholder):
                known = {str(one): None for one in Placeholder}
                at.report(f"{shorten(name)} is not a placeholder", nearest(name, known))
        return word


@dataclass(frozen=True, slots=True)
class Files(Kind):
    """A mapping of paths in the container to where their contents come from."""

    keys: Mapping[str, Key]

    @property
    def wanted(self) -> str:
        return "a mapping of paths to sources"

    @property
    def limits(self) -> str:
        return f"sources with keys {', '.join(self.keys)}"

    def read(self, at: Place) -> tuple[HostFile, ...]:
        read = (self._file(target, child) for target, child in at.entries())
        return tuple(file for file in read if file is not None)

    def _file(self, target: str, at: Place) -> HostFile | None:
        if not _PATH.fullmatch(target):
            at.report(f"{shorten(target)} is not a path", "start with / and leave out . and ..")
        for place in OWN_PLACES:
            if target == place or target.startswith(f"{place}/"):
                at.report(f"{place} in the container is sparkd's own", "use another path")
        inner = at.isolated()
        values: dict[str, Any] = read_keys(inner, self.keys)
        at.problems.extend(inner.problems)
        if inner.problems:
            return None
        given = {name for name, value in values.items() if value is not None}
        if given not in ({"path"}, {"url", "sha256"}, {"repo", "file"}):
            found = ", ".join(sorted(given)) or "nothing"
            at.report(
                f"a source is path, or url and sha256, or repo and file; found {found}",
                "sparkctl pull fetches the latter two",
            )
            return None
        path = values.get("path") or values.get("sha256") or _path_in_repo(values)
        return HostFile(target=target, **{**values, "path": Path(path)})


def _path_in_repo(values: Mapping[str, str]) -> str:
    return f"{values['repo'].replace('/', '--')}/{values['file']}"


@dataclass(frozen=True, slots=True)
class Clients(Kind):
    """A mapping of clients to what they are configured with."""

    keys: Mapping[str, Key]

    @property
    def wanted(self) -> str:
        return "a mapping of clients to limits"

    @property
    def limits(self) -> str:
        return f"{', '.join(Client)}, with keys {', '.join(self.keys)}"

    def read(self, at: Place) -> tuple[tuple[Client, ClientLimits], ...]:
        read: list[tuple[Client, ClientLimits]] = []
        for name, child in at.entries():
            if name not in list(Client):
                hint = nearest(name, {str(client): None for client in Client})
                child.report(f"unknown client {shorten(name)}", hint)
                continue
            inner = child.isolated()
            values: dict[str, Any] = read_keys(inner, self.keys)
            at.problems.extend(inner.problems)
            if not inner.problems:
                read.append((Client(name), ClientLimits(**values)))
        return tuple(read)


class Options(Kind):
    """A mapping of names to numbers."""

    wanted = "a mapping of names to numbers"
    limits = ""

    def read(self, at: Place) -> tuple[tuple[str, float], ...]:
        return tuple((name, self._number(child)) for name, child in at.entries())

    def _number(self, at: Place) -> float:
        text = at.scalar("a number")
        if text is None or not _NUMBER.fullmatch(text):
            if text is not None:
                at.report(f"{shorten(text)} is not a number", "write it like 0.95")
            return 0
        return float(text) if "." in text else int(text)
