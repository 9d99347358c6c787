# SPDX-License-Identifier: Apache-2.0
"""`role_alternation`: a conversation for chat templates that insist on user, assistant, user.

Owns the order of messages. It never loses a text, a picture or a tool call: two messages become
one only if everything in them has a place there, and results of tools stay as they are.
"""

from __future__ import annotations

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
        heading = joined(heading, media)
    return [{"role": "user", "content": heading}, *turns] if heading else turns


def _merged(messages: list[Message]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        both = _one_of(merged[-1], message) if merged else None
        if both is None:
            merged.append(message)
        else:
            merged[-1] = both
    return merged


def _one_of(first: Message, second: Message) -> Message | None:
    """One message that says all that the two say; None if that cannot be."""
    if first["role"] != second["role"] or first["role"] not in FILLERS:
        return None
    both = dict(first)
    for key, value in second.items():
        before = both.get(key)
        if key == "content":
            both[key] = joined(before, value)
        elif before is None or value is None:
            both[key] = value if before is None else before
        elif isinstance(before, list) and isinstance(value, list):
            both[key] = [*before, *value]
        elif not isinstance(before, str) or not isinstance(value, str):
            return None
        elif key in _TEXT_FIELDS:
            both[key] = joined(before, value)
        elif before != value:
            return None
    return both


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
