# SPDX-License-Identifier: Apache-2.0
"""Server-sent events as far as the gateway writes any itself (HTML standard, section 9.2)."""

from __future__ import annotations

import re

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
