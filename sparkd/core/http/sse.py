# SPDX-License-Identifier: Apache-2.0
"""Server-sent events as far as sparkd writes and reads them (HTML standard, section 9.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sparkd.core.numbers import MOST_KEPT, bounded_int

END_MARK = re.compile(
    rb"^(?:data: ?\[DONE\]"
    rb"|event: ?(?:error|message_stop|response\.(?:completed|failed|incomplete)))\r?$",
    re.MULTILINE,
)
"""The line by which a stream of any dialect says that it is whole."""
_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")
_MARK_BYTES = 64
"""More than the longest mark, with a line end."""
_NUMBER_NAME = b'"sequence_number"'
_NUMBER = re.compile(rb'[^\\]"sequence_number" {0,4}: {0,4}([0-9]{1,19}) {0,4}[,}\r\n]')
"""The number of an event. Inside a JSON string a backslash precedes the quotation mark."""
_NUMBER_BYTES = 64
"""More than the longest text that `_NUMBER` matches, with the byte before it."""


def comment(text: str) -> bytes:
    """A comment. It carries text for people; most decoders skip it, but not all of them."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


class EndMark:
    """Looks for the event by which a stream of any dialect says that it is whole."""

    def __init__(self) -> None:
        self._seen = False
        self._line = b""
        """How the line began that is not whole yet."""

    @property
    def seen(self) -> bool:
        """Whether there was one, if the stream ends here."""
        return self._seen or END_MARK.fullmatch(self._line) is not None

    def feed(self, data: bytes) -> None:
        lines, _, rest = (self._line + data).rpartition(b"\n")
        self._seen = self._seen or END_MARK.search(lines) is not None
        # Of a line longer than any mark its length is enough.
        self._line = rest[:_MARK_BYTES]


class SequenceNumber:
    """The number that the next event of a Responses stream has, after those of the engine."""

    def __init__(self) -> None:
        self.following = 0
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Read the last valid number in these bytes; an odd value leaves the number as it is."""
        seen = self._tail + data
        self._tail = seen[-_NUMBER_BYTES:]
        if _NUMBER_NAME not in seen:
            return
        for match in _NUMBER.finditer(seen):
            number = bounded_int(match[1].decode(), most=MOST_KEPT - 1)
            if number is not None:
                self.following = number + 1


class Reader:
    """The events and comments of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Item]:
        """What has become whole by this piece; of an event only its data is kept."""
        *blocks, self._rest = _EMPTY_LINE.split(self._rest + piece)
        return [item for block in blocks for item in _items(block.decode(errors="replace"))]


@dataclass(frozen=True, slots=True)
class Item:
    """The data of an event, or a comment."""

    text: str
    is_comment: bool = False


def _items(block: str) -> Iterator[Item]:
    data: list[str] = []
    for line in block.replace("\r\n", "\n").split("\n"):
        if line.startswith(":"):
            yield Item(line[1:].strip(), is_comment=True)
        elif line.startswith("data:"):
            data.append(line[len("data:") :].removeprefix(" "))
    if data:
        yield Item("\n".join(data))
