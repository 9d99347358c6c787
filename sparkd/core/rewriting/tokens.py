# SPDX-License-Identifier: Apache-2.0
"""An estimate of the tokens of a request's prompt, without a tokenizer.

Owns the arithmetic only; what is done with the number is `rewriting.caps`. The estimate knows
neither the model's vocabulary nor its chat template: docs/reference/rewriting.md says how far off
it is, and why a buffer goes with it. Every function takes any JSON value and raises nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sparkd.core.json.skeleton import hidden_chars
from sparkd.core.model import Dialect

CHARS_PER_TOKEN: Final = 4
TEMPLATE_TOKENS: Final = 500
"""For what the chat template adds, and the first tools: longer lists of tools count in full."""
MESSAGE_TOKENS: Final = 20
"""For the marks around one message."""
MEDIA_TOKENS: Final = 1500
"""For a picture, a recording or a document, whatever its size."""

_MEDIA = frozenset(
    {
        *("audio", "audio_url", "document", "file", "image", "image_embeds", "image_url"),
        *("input_audio", "input_file", "input_image", "video", "video_url"),
    }
)
_MARKS = frozenset({"role", "type"})
_CONVERSATION: Final[Mapping[Dialect, tuple[str, ...]]] = {
    Dialect.CHAT: ("messages",),
    Dialect.RESPONSES: ("instructions", "input"),
    Dialect.MESSAGES: ("system", "messages"),
}


def of_prompt(dialect: Dialect, body: Mapping[str, Any]) -> int:
    """The tokens of all that a request makes the model read."""
    if dialect is Dialect.COMPLETIONS:
        return _of_plain_prompt(body.get("prompt"))
    tools = of_json(body.get("tools")) + of_json(body.get("functions"))
    parts = (body.get(name) for name in _CONVERSATION.get(dialect, ()))
    return max(TEMPLATE_TOKENS, tools) + sum(_of_messages(part) for part in parts)


def of_text(text: str) -> int:
    """A token for four characters of ASCII; other characters are rarer and cost more.

    They count as many as they have bytes in UTF-8, those beyond the BMP (emoji) two.
    """
    return -(-_weight(text) // CHARS_PER_TOKEN)


def of_json(value: object) -> int:
    """The tokens of a value that the chat template writes out as JSON."""
    chars = 0
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            chars += _weight(one) + 3
        elif isinstance(one, list):
            chars += 2
            left.extend(one)
        elif isinstance(one, dict):
            chars += 2 + sum(_weight(key) + 4 for key in one)
            left.extend(one.values())
        elif one is not None:
            chars += 4
    return -(-chars // CHARS_PER_TOKEN)


def _weight(text: str) -> int:
    # A mark stands for a long string that was cut out of a large body.
    if hidden := hidden_chars(text):
        return hidden
    # Strings know whether they are ASCII; only others are encoded to be measured.
    if text.isascii():
        return len(text)
    beyond_bmp = len(text.encode("utf-16-le", "surrogatepass")) // 2 - len(text)
    return len(text.encode("utf-8", "surrogatepass")) - 2 * beyond_bmp


def _of_messages(value: object) -> int:
    if isinstance(value, list):
        return sum(MESSAGE_TOKENS + _of_content(message) for message in value)
    return _of_content(value)


def _of_content(value: object) -> int:
    """All the text in a value, however nested, and its media."""
    tokens = 0
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            tokens += of_text(one)
        elif isinstance(one, list):
            left.extend(one)
        elif isinstance(one, dict):
            kind = one.get("type")
            if isinstance(kind, str) and kind in _MEDIA:
                tokens += MEDIA_TOKENS
            else:
                left.extend(member for key, member in one.items() if key not in _MARKS)
    return tokens


def _of_plain_prompt(prompt: object) -> int:
    """A text, token ids, or several of either, of which the longest counts."""
    if not isinstance(prompt, list):
        return _of_content(prompt)
    if prompt and isinstance(prompt[0], int):
        return len(prompt)
    return max((len(p) if isinstance(p, list) else _of_content(p) for p in prompt), default=0)
