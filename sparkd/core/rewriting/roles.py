# SPDX-License-Identifier: Apache-2.0
"""`role_alternation`: conversations for chat templates that require user, assistant, user.

Owns the order of messages. It never loses a text, a picture or a tool call: two messages become
one only if everything in them has a place there, and results of tools stay as they are.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from sparkd.core.model import Dialect, ModelSpec
from sparkd.core.rewriting.texts import (
    BLANK_LINE,
    SYSTEM_ROLES,
    Content,
    Message,
    Part,
    differ,
    is_message,
    is_text,
    joined,
    parts_of,
)

SYSTEM_HEADING = "[System Instruction]"
EMPTY_USER = " "
FILLERS = {"user": ("assistant", "Understood."), "assistant": ("user", "Continue.")}
"""What stands between two messages of one role that cannot be made one."""

_TEXT_FIELDS = frozenset({"reasoning", "reasoning_content", "refusal"})


def alternate(_spec: ModelSpec, _dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """No system messages, a user first, and neither user nor assistant twice in a row."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(map(is_message, messages)):
        return body
    turns = _separated(_merged(_with_system_first(messages)))
    return {**body, "messages": turns} if turns and differ(turns, messages) else body


def _with_system_first(messages: list[Message]) -> list[Message]:
    """What system messages say becomes a user message in front."""
    parts: list[Part] = []
    turns: list[Message] = []
    for message in messages:
        if message["role"] in SYSTEM_ROLES:
            parts.extend(parts_of(message.get("content")))
        else:
            turns.append(message)
    text = BLANK_LINE.join(part["text"] for part in parts if is_text(part) and part["text"])
    media = [part for part in parts if not is_text(part)]
    heading: Content = f"{SYSTEM_HEADING}\n{text}" if text else ""
    if media:
        heading = joined((heading, media))
    return [{"role": "user", "content": heading}, *turns] if heading else turns


def _merged(messages: list[Message]) -> list[Message]:
    turns: list[_Turn] = []
    for message in messages:
        if turns and turns[-1].takes(message):
            turns[-1].add(message)
        else:
            turns.append(_Turn(message))
    return [turn.message() for turn in turns]


class _Turn:
    """Consecutive messages of one role on their way to one message.

    Keeps the values of a field apart until the end: joining them one by one would copy the first
    as often as others follow.
    """

    __slots__ = ("_fields", "_first", "_values")

    def __init__(self, first: Message) -> None:
        self._first = first
        self._fields: Message = first
        """Of each field a value that is not None, as far as there is one."""
        self._values: dict[str, list[Any]] = {}
        """All values of the fields that two messages or more have."""

    def takes(self, message: Message) -> bool:
        """Whether one message can hold all that the turn and this message say."""
        role = message["role"]
        return (
            role == self._first["role"]
            and role in FILLERS
            and all(self._fits(key, value) for key, value in message.items())
        )

    def _fits(self, key: str, value: object) -> bool:
        before = self._fields.get(key)
        if key == "content" or before is None or value is None:
            return True
        if isinstance(before, list):
            return isinstance(value, list)
        if not isinstance(before, str) or not isinstance(value, str):
            return False
        return key in _TEXT_FIELDS or before == value

    def add(self, message: Message) -> None:
        if self._fields is self._first:
            self._fields = dict(self._first)
        for key, value in message.items():
            before = self._fields.get(key)
            if key == "content" or (before is not None and value is not None):
                self._values.setdefault(key, [before]).append(value)
            if before is None:
                self._fields[key] = value

    def message(self) -> Message:
        """The one message; the very first object if there was no second."""
        if self._fields is self._first:
            return self._first
        return {**self._fields, **{key: _one_of(key, all_) for key, all_ in self._values.items()}}


def _one_of(key: str, values: list[Any]) -> object:
    """The values of one field as one value."""
    if key == "content" or (key in _TEXT_FIELDS and isinstance(values[0], str)):
        return joined(values)
    return [*chain.from_iterable(values)] if isinstance(values[0], list) else values[0]


def _separated(messages: list[Message]) -> list[Message]:
    """Begins with a user, and has a filler wherever two messages of one role still meet."""
    turns: list[Message] = []
    for message in messages:
        role = message["role"]
        if not turns and role != "user":
            turns.append({"role": "user", "content": EMPTY_USER})
        elif turns and turns[-1]["role"] == role and role in FILLERS:
            other, text = FILLERS[role]
            turns.append({"role": other, "content": text})
        turns.append(message)
    return turns
