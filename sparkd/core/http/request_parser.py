# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 as a server reads it: the head of a request, and a chunked body.

Pure: no connection, no clock. What two readers could take for different requests is refused and
never repaired (RFC 9112): line ends other than CRLF, folded lines, a space before a colon, a length
that is said twice. Everything raises `Malformed`, whose text says what is wrong and quotes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = rb"[^\x00-\x08\n-\x1f\x7f]*"
_LINE = rb"(%b) ([\x21-\x7e]+) HTTP/1\.([01])" % _TOKEN
_HEAD = re.compile(rb"%b((?:\r\n%b:%b)*)" % (_LINE, _TOKEN, _VALUE))
_FIRST_LINE = re.compile(_LINE)
_METHOD_BEGUN = re.compile(_TOKEN)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;%b)?" % _VALUE)
_TRAILER = re.compile(rb"%b:%b" % (_TOKEN, _VALUE))
_ONCE = frozenset({"content-length", "transfer-encoding", "host"})
_LINE_BYTES = 1024
"""The longest line between two chunks; no client says more there than a size."""
_TRAILER_LINES = 64
HEAD_BYTES = 64 << 10
"""The largest head: a browser sends the cookies of every port of this host, several KiB each."""
HEADER_LINES = 256
_AUTHORITY = rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~%-]{1,255})(?::[0-9]{1,5})?"
_ABSOLUTE = re.compile(rb"https?://%b((?:[/?].*)?)" % _AUTHORITY, re.IGNORECASE | re.DOTALL)


class Malformed(ValueError):
    """This is no request, or not the same one to every reader."""


class HeadTooLarge(Malformed):
    """The head has more bytes or lines than any client needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    method: str
    target: bytes
    """A path with its query, or `*`; an absolute URL is reduced to its path."""
    minor: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    headers: list[tuple[str, str]]
    """Names in lower case; bytes that are no UTF-8 are kept as surrogates."""
    length: int | None
    """Of the body; None for one in chunks."""
    keep_alive: bool


def head_end(buffer: bytearray, limit_bytes: int, seen_bytes: int = 0) -> int | None:
    """Where the empty line after the head begins, or None when more must come.

    `seen_bytes` of the buffer were checked before, so that a head in many pieces costs no more than
    one in a single piece. Raises Malformed as soon as no head can come of it.
    """
    end = buffer.find(b"\r\n\r\n", max(0, seen_bytes - 3))
    if 0 <= end <= limit_bytes:
        return end
    if end > limit_bytes or len(buffer) > limit_bytes:
        raise HeadTooLarge(f"the head has more than {limit_bytes} bytes")
    if not seen_bytes and buffer and not _METHOD_BEGUN.match(buffer):
        raise Malformed("it does not begin with a method")
    if _BARE_LF.search(buffer, seen_bytes):
        raise Malformed("a line does not end in CR LF")
    return None


def parse_head(head: bytes) -> RequestHead:
    """The head without the empty line at its end. Raises Malformed."""
    found = _HEAD.fullmatch(head)
    if found is None:
        first = head.partition(b"\r\n")[0]
        if _FIRST_LINE.fullmatch(first):
            raise Malformed("a header is not 'name: value' on one line of plain characters")
        raise Malformed("the first line is not 'METHOD /path HTTP/1.1'")
    method, target, minor, lines = found.groups()
    if lines.count(b"\r\n") > HEADER_LINES:
        raise HeadTooLarge(f"the head has more than {HEADER_LINES} headers")
    headers: list[tuple[str, str]] = []
    said: dict[str, str] = {}
    options: list[str] = []
    for line in lines.decode("utf-8", "surrogateescape").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers.append((name, value))
        if name in _ONCE:
            if name in said:
                raise Malformed("content-length, transfer-encoding or host is repeated")
            said[name] = value
        elif name == "connection":
            options.append(value)
    if minor == b"1" and "host" not in said:
        raise Malformed("it names no host")
    named = connection_options(options)
    return RequestHead(
        method=method.decode("ascii"),
        target=_path_of(target),
        minor=int(minor),
        headers=headers,
        length=_length(said, minor),
        keep_alive="close" not in named and (minor == b"1" or "keep-alive" in named),
    )


def _path_of(target: bytes) -> bytes:
    """The path and query of a target in any of its forms. Raises Malformed."""
    if target.startswith(b"/") or target == b"*":
        return target
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise Malformed("the target is neither a path nor a URL")
    path: bytes = found[1]
    return path if path.startswith(b"/") else b"/" + path


def _length(said: dict[str, str], minor: bytes) -> int | None:
    length, coding = said.get("content-length"), said.get("transfer-encoding")
    if coding is None:
        if length is not None and not _LENGTH.fullmatch(length):
            raise Malformed("the content-length is not a number")
        return int(length or 0)
    if length is not None:
        raise Malformed("it has a content-length and a transfer-encoding")
    if coding.lower() != "chunked" or minor == b"0":
        raise Malformed("the transfer-encoding is not 'chunked' of HTTP/1.1")
    return None


def connection_options(values: Iterable[str]) -> frozenset[str]:
    """What the `Connection` headers of a message name: options, and headers that end here."""
    return frozenset(
        option for value in values for option in value.lower().replace(",", " ").split()
    )


class _Next(Enum):
    """What the next line between two chunks is."""

    SIZE = auto()
    END = auto()
    TRAILER = auto()


class ChunkedBody:
    """A body in chunks, taken from the front of a buffer that its owner fills."""

    def __init__(self) -> None:
        self.whole = False
        """Whether its end has been taken, trailers included; the rest is the next request's."""
        self._left = 0
        self._lines = 0
        self._next = _Next.SIZE

    def take(self, buffer: bytearray) -> bytes:
        """What there is of the next chunk; nothing when more must come, or at the end.

        Raises Malformed.
        """
        while not self._left:
            line = _take_line(buffer)
            if line is None or self._read(line):
                return b""
        data = bytes(buffer[: self._left])
        del buffer[: len(data)]
        self._left -= len(data)
        return data

    def _read(self, line: bytes) -> bool:
        """One line between two chunks; whether it was the last."""
        if self._next is _Next.END:
            if line:
                raise Malformed("a chunk is longer than it says")
            self._next = _Next.SIZE
        elif self._next is _Next.SIZE:
            found = _CHUNK.fullmatch(line)
            if found is None:
                raise Malformed("the size of a chunk is not a number")
            self._left = int(found[1], 16)
            self._next = _Next.END if self._left else _Next.TRAILER
        elif not line:
            self.whole = True
        else:
            self._lines += 1
            if self._lines > _TRAILER_LINES or not _TRAILER.fullmatch(line):
                raise Malformed("the line after the last chunk is not a header")
        return self.whole


def _take_line(buffer: bytearray) -> bytes | None:
    """The next line without its end, or None when more must come. Raises Malformed."""
    end = buffer.find(b"\n", 0, _LINE_BYTES)
    if end > 0 and buffer[end - 1] == ord("\r"):
        line = bytes(buffer[: end - 1])
        del buffer[: end + 1]
        return line
    if end >= 0:
        raise Malformed("a line does not end in CR LF")
    if len(buffer) >= _LINE_BYTES:
        raise Malformed("a line between two chunks is too long")
    return None
