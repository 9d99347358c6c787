# SPDX-License-Identifier: Apache-2.0
"""What the content of a message is made of, and `text_content`, which makes one text of it.

Owns the difference between a string, a list of parts and nothing.
"""

from __future__ import annotations

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


def joined(first: Content, second: Content) -> Content:
    """Two contents as one, a blank line between texts; media stay where they are."""
    if not first or not second:
        return first or (first if second is None else second)
    if isinstance(first, str) and isinstance(second, str):
        return first + BLANK_LINE + second
    head, tail = parts_of(first), parts_of(second)
    if not (is_text(head[-1]) and is_text(tail[0])):
        return [*head, *tail]
    # Chat templates trim each part and write them without a space between.
    seam = {**head[-1], **tail[0], "text": head[-1]["text"] + BLANK_LINE + tail[0]["text"]}
    return [*head[:-1], seam, *tail[1:]]


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
