# SPDX-License-Identifier: Apache-2.0
"""Bodies of multipart/form-data (RFC 7578), of which the gateway reads the text fields.

A form goes on byte for byte, with three exceptions: the value of `model` where the client named the
model in another way, the preamble, and the white space behind a boundary, which RFC 2046 allows and
engines refuse. A body that two readers could take for different forms is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparkd.core.errors import RequestError
from sparkd.core.json.spliced import Payload, Raw, Spliced

_KIND = re.compile(rb"\s*([A-Za-z-]+(?:/[A-Za-z-]+)?)\s*")
_PARAMETER = re.compile(rb';\s*([A-Za-z*-]+)=(?:"((?:[^"\\\r\n]|\\[^\r\n])*)"|([^\s";]+))\s*')
_END = re.compile(rb"[;\s]*")
"""Behind the last parameter a semicolon may follow."""
_DISPOSITION = b"content-disposition:"
_BOUNDARY_BYTES = 70
_PART_HEAD_BYTES = 8192
_PARTS_MOST = 256
_PADDING_BYTES = 256
_TEXT_BYTES = 1024
"""No id of a model is longer."""
_SLICE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    begin: int
    """Where its content stands in the body."""
    end: int


class Form:
    """One body; its parts are found once."""

    def __init__(self, raw: Raw, content_type: str) -> None:
        """Raises RequestError when it is not a form."""
        self._raw = raw
        self._boundary = _boundary(content_type)
        self._parts: list[_Part] = []
        self._cuts: list[tuple[int, int]] = []
        """What RFC 2046 lets a sender write around a boundary, and common parsers refuse."""
        self._read(b"--" + self._boundary)

    def text(self, name: str) -> str | None:
        """The value of a field, None without one. Raises RequestError when it stands twice."""
        found = [part for part in self._parts if part.name == name]
        if len(found) > 1:
            raise _wrong(f"the field {name!r} stands there {len(found)} times")
        if not found:
            return None
        begin, end = found[0].begin, found[0].end
        if end - begin > _TEXT_BYTES:
            raise _wrong(f"the field {name!r} has {end - begin} bytes")
        return self._raw[begin:end].decode("utf-8", "replace")

    def with_text(self, name: str, value: str) -> Payload:
        """The body with this value in the field; the very same bytes where it is so already."""
        edits = [(begin, end, b"") for begin, end in self._cuts]
        if self.text(name) != value:
            held = next((part for part in self._parts if part.name == name), None)
            if held is not None:
                edits.append((held.begin, held.end, value.encode()))
            else:
                head = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
                field = head % (self._boundary, name.encode(), value.encode())
                edits.append((self._start, self._start, field))
        return self._edited(sorted(edits)) if edits else self._raw

    def _edited(self, edits: list[tuple[int, int, bytes]]) -> Spliced:
        view, at = memoryview(self._raw), 0
        pieces: list[bytes | memoryview] = []
        for begin, end, instead in edits:
            pieces += [view[at:begin], instead]
            at = end
        return Spliced([*pieces, view[at:]])

    def _read(self, delimiter: bytes) -> None:
        raw = self._raw
        self._start = at = _find(raw, delimiter, 0)
        if at < 0 or (at and raw[at - 2 : at] != b"\r\n"):
            raise _wrong("no line of the body begins with its boundary")
        self._cuts.append((0, at))
        for _ in range(_PARTS_MOST):
            at += len(delimiter)
            closes = raw.startswith(b"--", at)
            at += 2 * closes
            line_end = self._padded(at)
            if closes and (raw.startswith(b"\r\n", line_end) or line_end == len(raw)):
                self._cuts = [cut for cut in self._cuts if cut[0] < cut[1]]
                return
            begin = raw.find(b"\r\n\r\n", line_end, line_end + _PART_HEAD_BYTES)
            if closes or not raw.startswith(b"\r\n", line_end) or begin < 0:
                raise _wrong("a part has no head")
            end = _find(raw, b"\r\n" + delimiter, begin + 2)
            if end < begin + 4:
                raise _wrong("a part does not end in its boundary on a line of its own")
            name = _name(bytes(raw[line_end + 2 : begin]))
            self._parts.append(_Part(name, begin + 4, end))
            at = end + 2
        raise _wrong(f"it has more than {_PARTS_MOST} parts")

    def _padded(self, at: int) -> int:
        """Where the white space behind a boundary ends; it is cut out."""
        end = at
        while end < len(self._raw) and self._raw[end] in b" \t":
            end += 1
            if end - at > _PADDING_BYTES:
                raise _wrong("a boundary has more than white space behind it")
        self._cuts.append((at, end))
        return end


def _find(raw: Raw, wanted: bytes, at: int) -> int:
    """As `find`, in slices, so that other threads run in between."""
    while at < len(raw):
        found = raw.find(wanted, at, at + _SLICE_BYTES + len(wanted) - 1)
        if found >= 0:
            return found
        at += _SLICE_BYTES
    return -1


def _boundary(content_type: str) -> bytes:
    kind, parameters = _parsed(content_type.encode("utf-8", "surrogateescape"))
    boundary = parameters.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= _BOUNDARY_BYTES:
        raise _wrong("the content-type is not multipart/form-data with a boundary")
    return boundary


def _parsed(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The kind that a header's value names, and its parameters, each of which stands there once."""
    kind = _KIND.match(value)
    at = kind.end() if kind else 0
    parameters: dict[bytes, bytes] = {}
    while _END.fullmatch(value, at) is None:
        found = _PARAMETER.match(value, at)
        if kind is None or found is None or found[1].lower() in parameters:
            raise _wrong("a header of it is not 'kind; name=value', each name once")
        parameters[found[1].lower()] = found[3] or re.sub(rb"\\(.)", rb"\1", found[2])
        at = found.end()
    return (kind[1].lower() if kind else b""), parameters


def _name(head: bytes) -> str:
    lines = [line for line in head.split(b"\r\n") if line.lower().startswith(_DISPOSITION)]
    if len(lines) == 1:
        kind, parameters = _parsed(lines[0][len(_DISPOSITION) :])
        if kind == b"form-data" and b"name" in parameters:
            return parameters[b"name"].decode("utf-8", "replace")
    raise _wrong("a part has no name")


def _wrong(why: str) -> RequestError:
    return RequestError(
        f"the body is not a form: {why}",
        hint="curl -F file=@speech.wav -F model=MODEL ...",
        code="invalid_form",
    )
