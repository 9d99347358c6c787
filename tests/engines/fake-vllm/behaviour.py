# SPDX-License-Identifier: Apache-2.0
"""What the fake engine does and when: one table of settings and the places they come from.

Owns the settings' names, types and defaults, and the order in which the sources override each
other: default, environment, command line, switch file, the request's own `fake` object. It does
none of what the settings ask for.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hostile import KINDS as HOSTILE

ENVIRONMENT_PREFIX = "FAKE_VLLM_"
OPTION_PREFIX = "--fake-"
SWITCH_FILE = Path("/cache/fake.json")
TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})


class BehaviourError(ValueError):
    """A setting that does not exist or has a value of the wrong kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Read once a process for the upper part, once a request for the lower part."""

    load_seconds: float = 0.5
    load_hang: bool = False
    # A real vLLM binds its socket early but listens late: clients are refused until it is loaded.
    listen: str = "early"
    crash_at_start: bool = False
    crash_after_seconds: float = 0.2
    exit_code: int = 1
    crash_log: str = "RuntimeError: Engine core initialization failed. See root cause above."
    memory_bytes: int = 0
    workers: int = 0
    ignore_signals: str = ""
    stop_seconds: float = 0.0

    context_tokens: int = 0
    tokens: int = 0
    fill: bool = True
    pace_ms: float = 0.0
    first_token_ms: float = 0.0
    status: int = 200
    crash_after_tokens: int = -1
    stall_after_tokens: int = -1
    break_after_tokens: int = -1
    held_as: str = ""
    garbage: str = ""
    hostile: str = ""
    hostile_at: str = "/v1/"
    nap: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


KINDS: dict[str, type] = {
    f.name: dict if f.name == "headers" else type(f.default) for f in fields(Behaviour)
}
CHOICES = {
    "listen": ("early", "late"),
    "garbage": ("", "status_line", "header", "length", "chunk"),
    "hostile": ("", *HOSTILE),
    "nap": ("", "sleep_fails", "wake_fails", "wake_hangs", "forgets"),
}


def setting(name: str, value: object) -> Any:
    kind = KINDS.get(name)
    if kind is None:
        raise BehaviourError(f"no such fake setting: '{name}', known: {', '.join(KINDS)}")
    if name in CHOICES and value not in CHOICES[name]:
        raise BehaviourError(f"fake setting '{name}' is '{value}', not one of {CHOICES[name]}")
    if kind is dict:
        return _headers(name, value)
    if kind is bool:
        return _truth(name, value)
    try:
        return kind(value)
    except (TypeError, ValueError) as wrong:
        raise BehaviourError(f"fake setting '{name}' is '{value}': {wrong}") from None


def _headers(name: str, value: object) -> dict[str, str]:
    given = json.loads(value) if isinstance(value, str) else value
    if not isinstance(given, dict):
        raise BehaviourError(f"fake setting '{name}' is '{value}', not an object")
    return {str(key): str(text) for key, text in given.items()}


def _truth(name: str, value: object) -> bool:
    word = str(value).lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise BehaviourError(f"fake setting '{name}' is '{value}', neither true nor false")


def overridden(behaviour: Behaviour, changes: Mapping[str, object]) -> Behaviour:
    if not changes:
        return behaviour
    return replace(behaviour, **{name: setting(name, value) for name, value in changes.items()})


def from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }


def from_arguments(arguments: Iterable[str]) -> tuple[dict[str, object], list[str]]:
    """Takes `--fake-*` out of the command line: the changes, and all other arguments."""
    changes: dict[str, object] = {}
    rest: list[str] = []
    waiting: str | None = None
    for argument in arguments:
        if waiting is not None:
            changes[waiting] = argument
            waiting = None
        elif argument.startswith(OPTION_PREFIX):
            name, has_value, value = argument.removeprefix(OPTION_PREFIX).partition("=")
            name = name.replace("-", "_")
            if has_value:
                changes[name] = value
            elif KINDS.get(name) is bool:
                changes[name] = "true"
            else:
                waiting = name
        else:
            rest.append(argument)
    if waiting is not None:
        raise BehaviourError(f"fake setting '{waiting}' has no value")
    return changes, rest


class Switches:
    """The switch file, read again whenever it changed: behaviour altered from outside."""

    def __init__(self, base: Behaviour, path: Path) -> None:
        self._base = base
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._current = base

    def current(self) -> Behaviour:
        try:
            status = os.stat(self._path)
        except OSError:
            self._seen, self._current = None, self._base
            return self._base
        seen = (status.st_mtime_ns, status.st_ino)
        if seen != self._seen:
            try:
                changes = json.loads(self._path.read_bytes())
            except ValueError:
                # Half written: the file's time changes again when its writer is done.
                return self._current
            self._current = overridden(self._base, changes)
            self._seen = seen
        return self._current
