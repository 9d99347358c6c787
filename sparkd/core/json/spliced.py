# SPDX-License-Identifier: Apache-2.0
"""A body made of pieces of other bytes, so that a changed body is sent with few copies."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate


class Spliced:
    """The pieces one after the other, as if they were one `bytes`."""

    __slots__ = ("_ends", "_pieces")

    def __init__(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        self._pieces = [memoryview(piece) for piece in pieces if len(piece)]
        self._ends = list(accumulate(map(len, self._pieces)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, wanted: slice) -> bytes | memoryview:
        """The bytes of a slice without a step; a view where one piece holds them all."""
        begin, end, _ = wanted.indices(len(self))
        index = bisect_right(self._ends, begin)
        found: list[memoryview] = []
        while begin < end:
            piece, ends = self._pieces[index], self._ends[index]
            start = ends - len(piece)
            found.append(piece[begin - start : end - start])
            begin, index = ends, index + 1
        return found[0] if len(found) == 1 else b"".join(found)

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)


Raw = bytes | bytearray
"""A body as it was read: nothing writes to it."""
Payload = bytes | bytearray | Spliced
"""A body as it is sent."""
