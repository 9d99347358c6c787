# SPDX-License-Identifier: Apache-2.0
"""Server-sent events as far as we write and read any ourselves (HTML standard, section 9.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_END = re.compile(
    rb"^(?:data: ?\[DONE\]"
    rb"|event: ?(?:error|message_stop|response\.(?:completed|failed|incomplete)))\r?$",
    re.MULTILINE,
)
_MARK_BYTES = 64
"""More than the longest mark, with the line end before it and the one after."""


def comment(text: str) -> bytes:
    """A comment: clients ignore it, and it keeps connections and patience alive."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


class EndMark:
    """Looks for the event by which a stream of any dialect says that it is whole."""

    def __init__(self) -> None:
        self.seen = False
        self._tail = b""

    def feed(self, data: bytes) -> None:
        text = self._tail + data
        self.seen = self.seen or _END.search(text) is not None
        self._tail = text[-_MARK_BYTES:]


class Reader:
    """The events and comments of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Item]:
        """What has become whole by this piece; of an event only its data is kept."""
        *blocks, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        return [item for block in blocks for item in _items(block.decode(errors="replace"))]


@dataclass(frozen=True, slots=True)
class Item:
    """The data of an event, or a comment."""

    text: str
    is_comment: bool = False


def _items(block: str) -> Iterator[Item]:
    data: list[str] = []
    for line in block.split("\n"):
        if line.startswith(":"):
            yield Item(line[1:].strip(), is_comment=True)
        elif line.startswith("data:"):
            data.append(line[len("data:") :].removeprefix(" "))
    if data:
        yield Item("\n".join(data))
