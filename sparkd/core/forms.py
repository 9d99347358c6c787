# SPDX-License-Identifier: Apache-2.0
"""Bodies of multipart/form-data (RFC 7578), as far as a gateway must read them: their text fields.

A form goes on byte for byte; only the value of `model` is put in place where the client named the
model in another way. What two readers could take for different forms is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sparkd.core.errors import RequestError

_KIND = re.compile(rb"\s*([A-Za-z-]+(?:/[A-Za-z-]+)?)\s*")
_PARAMETER = re.compile(rb';\s*([A-Za-z*-]+)=(?:"((?:[^"\\\r\n]|\\[^\r\n])*)"|([^\s";]+))\s*')
_DISPOSITION = b"content-disposition:"
_BOUNDARY_BYTES = 70
_PART_HEAD_BYTES = 8192
_PARTS_MOST = 256


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    begin: int
    """Where its content stands in the body."""
    end: int


class Form:
    """One body; its parts are found once."""

    def __init__(self, raw: bytes, content_type: str) -> None:
        """Raises RequestError when it is not a form."""
        self._raw = raw
        self._boundary = _boundary(content_type)
        self._parts = list(_parts(raw, b"--" + self._boundary))

    def text(self, name: str) -> str | None:
        """The value of a field, None without one. Raises RequestError when it stands twice."""
        found = [part for part in self._parts if part.name == name]
        if len(found) > 1:
            raise _wrong(f"the field {name!r} stands there {len(found)} times")
        if not found:
            return None
        return self._raw[found[0].begin : found[0].end].decode("utf-8", "replace")

    def with_text(self, name: str, value: str) -> bytes:
        """The body with this value in the field; the very same bytes where it is so already."""
        if self.text(name) == value:
            return self._raw
        for part in self._parts:
            if part.name == name:
                return self._raw[: part.begin] + value.encode() + self._raw[part.end :]
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        return head % (self._boundary, name.encode(), value.encode()) + self._raw


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
    while at < len(value):
        found = _PARAMETER.match(value, at)
        if kind is None or found is None or found[1].lower() in parameters:
            raise _wrong("a header of it is not 'kind; name=value', each name once")
        parameters[found[1].lower()] = found[3] or re.sub(rb"\\(.)", rb"\1", found[2])
        at = found.end()
    return (kind[1].lower() if kind else b""), parameters


def _parts(raw: bytes, delimiter: bytes) -> Iterator[_Part]:
    if not raw.startswith(delimiter):
        raise _wrong("the body does not begin with its boundary")
    at = len(delimiter)
    for _ in range(_PARTS_MOST):
        if raw[at : at + 4] in (b"--", b"--\r\n"):
            return
        begin = raw.find(b"\r\n\r\n", at, at + _PART_HEAD_BYTES)
        if not raw.startswith(b"\r\n", at) or begin < 0:
            raise _wrong("a part has no head")
        end = raw.find(b"\r\n" + delimiter, begin + 2)
        if end < begin + 4:
            raise _wrong("a part does not end in its boundary on a line of its own")
        yield _Part(_name(raw[at + 2 : begin]), begin + 4, end)
        at = end + 2 + len(delimiter)
    raise _wrong(f"it has more than {_PARTS_MOST} parts")


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
