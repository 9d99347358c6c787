# SPDX-License-Identifier: Apache-2.0
"""The names that a key may read: a key for some models learns the name of no other one.

One rule for everything that leaves the gateway: errors, events, notices, states. A text that names
a hidden model says "another model" in its place, so that a client still learns why it waits.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparkd.core.access.api_keys import ApiKey
from sparkd.core.errors import Disabled, NotPresent, RequestError, SparkdError
from sparkd.core.model import Config
from sparkd.core.names import Names
from sparkd.core.telemetry.events import Event

ANOTHER = "another model"
_NAMING = frozenset({"name", "model", "wanted", "id"})
"""Keys of events and details whose value is the id of a model."""


@dataclass(frozen=True, slots=True)
class Visibility:
    """The view of one key; `key` is None for a client that has shown none."""

    config: Config
    key: ApiKey | None

    @property
    def whole(self) -> bool:
        """Whether nothing is hidden."""
        return self.key is not None and not self.key.models

    def may_see(self, model_id: str) -> bool:
        return self.key is not None and self.key.may_use(model_id)

    def text(self, text: str) -> str:
        """The text without hidden names."""
        return text if self.whole else self._hide(())(text)

    def value(self, value: Any) -> Any:  # noqa: ANN401 (any JSON)
        """The same for any JSON."""
        return value if self.whole else self._value(value, self._hide(()))

    def error(self, error: SparkdError) -> SparkdError:
        """The same for an error: itself, or a copy, as requests of other keys may share it."""
        if self.whole or _repeats_the_request(error):
            return error
        hide = self._hide(named_in(error.details))
        error = copy.copy(error)
        error.message = hide(error.message)
        error.discreet = hide(error.discreet)
        error.hint = hide(error.hint)
        error.details = self._value(error.details, hide)
        error.headers = self._value(error.headers, hide)
        return error

    def event(self, event: Event) -> Event:
        """The same for an event."""
        if self.whole:
            return event
        hide = self._hide(named_in(event.values))
        return replace(
            event,
            text=hide(event.text),
            values=self._value(event.values, hide),
        )

    def _hide(self, further: Iterable[str]) -> Callable[[str], str]:
        """Replaces hidden names; `further` are names that the configuration may lack by now."""
        config = self.config
        known = dict.fromkeys((*further, *config.broken, *config.models))
        ids = {**{name: name for name in known}, **config.aliases}
        own = frozenset(name for name in config.adapters if self.may_see(name))
        hidden = frozenset(n for n, of in ids.items() if not self.may_see(of)) - own
        visible = frozenset(ids.keys() - hidden)
        pattern = _compiled(hidden, visible)
        return lambda text: pattern.sub(
            lambda found: found[0] if found[0] in visible else ANOTHER, text
        )

    def _value(self, value: Any, hide: Callable[[str], str]) -> Any:  # noqa: ANN401 (any JSON)
        if isinstance(value, str):
            return hide(value)
        if isinstance(value, Mapping):
            return {key: self._value(one, hide) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(one, hide) for one in value]
        return value


def _repeats_the_request(error: SparkdError) -> bool:
    """Whether the words of an error are those of the client, apart from names that it may know.

    To hide a name in them would tell which names exist.
    """
    return isinstance(error, RequestError) and not isinstance(error, Disabled | NotPresent)


def named_in(value: object) -> set[str]:
    """The models that a JSON names where it has a key for a name."""
    if isinstance(value, Mapping):
        own = {str(value[key]) for key in _NAMING & value.keys() if isinstance(value[key], str)}
        return own.union(*(named_in(one) for one in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(named_in(one) for one in value))
    return set()


@functools.lru_cache(maxsize=64)
def _compiled(hidden: frozenset[str], visible: frozenset[str]) -> re.Pattern[str]:
    """Finds names of models; of several at one place, the longest."""
    words = {word for name in hidden for word in (name, *_unit_names(name))}
    longest_first = sorted(words | visible, key=len, reverse=True)
    one_of = "|".join(re.escape(word) for word in longest_first if word) or r"(?!)"
    return re.compile(rf"(?<![\w-])(?:{one_of})(?![\w-])")


def _unit_names(model_id: str) -> tuple[str, ...]:
    names = Names(model_id)
    return names.scope, names.container
