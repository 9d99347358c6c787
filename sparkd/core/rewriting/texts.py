# SPDX-License-Identifier: Apache-2.0
"""The parts of a message's content, and `text_content`, which joins them into one text.

Owns the difference between a string, a list of parts and nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

from sparkd.core.model import Dialect, ModelSpec

Message = dict[str, Any]
Part = dict[str, Any]
Content = str | list[Any] | None
BLANK_LINE = "\n\n"
SYSTEM_ROLES = frozenset({"system", "developer"})
"""OpenAI renamed the first to the second; templates know the first at best."""


def is_message(value: object) -> TypeGuard[Message]:
    """Whether it has a role, and a content that the API allows: text, parts or nothing."""
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    if isinstance(content, list):
        return all(isinstance(part, dict | str) for part in content)
    return content is None or isinstance(content, str)


def is_text(part: Part) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def parts_of(content: Content) -> list[Part]:
    """The content as parts."""
    pieces = content if isinstance(content, list) else [content] if content else []
    return [{"type": "text", "text": one} if isinstance(one, str) else one for one in pieces]


def joined(contents: Iterable[Content]) -> Content:
    """Several contents as one, a blank line between texts; media keep their place.

    Copies each character once, however many contents there are.
    """
    listed = list(contents)
    kept = [one for one in listed if one]
    if len(kept) < 2:
        empty = next((one for one in reversed(listed) if one is not None), None)
        return kept[0] if kept else empty
    if all(isinstance(one, str) for one in kept):
        return BLANK_LINE.join(one for one in kept if isinstance(one, str))
    return _joined_parts(parts_of(one) for one in kept)


def _joined_parts(lists: Iterable[list[Part]]) -> list[Part]:
    """One list of parts. Where a text meets a text, one part holds both.

    Chat templates trim each part and write no space between two of them.
    """
    parts: list[Part] = []
    seam: list[str] = []
    """The texts of the last part, joined when it is complete."""
    for pieces in lists:
        rest = pieces
        if parts and is_text(parts[-1]) and is_text(pieces[0]):
            if not seam:
                parts[-1] = dict(parts[-1])
                seam.append(parts[-1]["text"])
            parts[-1].update(pieces[0])
            seam.append(pieces[0]["text"])
            rest = pieces[1:]
        if rest:
            _close(parts, seam)
            parts.extend(rest)
    _close(parts, seam)
    return parts


def _close(parts: list[Part], seam: list[str]) -> None:
    if seam:
        parts[-1]["text"] = BLANK_LINE.join(seam)
        seam.clear()


def join_parts(_spec: ModelSpec, _dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """Content that is a list of texts becomes one text, for templates that know only strings."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return body
    texts = [_as_text(message) for message in messages]
    return {**body, "messages": texts} if differ(texts, messages) else body


def _as_text(message: object) -> object:
    if not is_message(message):
        return message
    content = message.get("content")
    if not isinstance(content, list) or not content:
        return message
    parts = parts_of(content)
    # A picture cannot become text. The engine says that the model takes none; dropping it would
    # make the model answer about something that it never saw.
    if not all(is_text(part) for part in parts):
        return message
    return {**message, "content": "\n".join(part["text"] for part in parts if part["text"])}


def differ(new: list[Any], old: list[Any]) -> bool:
    """Whether any member is another object."""
    return len(new) != len(old) or any(
        one is not other for one, other in zip(new, old, strict=True)
    )
