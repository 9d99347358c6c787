# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 as a client reads it: the bytes of a request, and the response from its bytes.

Pure: no connection, no clock. httptools reads the syntax; what it lets pass depends on its
generation (http_parser in Debian 12, llhttp later), so what is an answer is decided here: one that
two readers could take for different ones is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import httptools  # type: ignore[import-untyped]

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, where they are of an answer."""

_HEAD_BYTES = 64 * 1024
"""The largest head of an answer, and the most that may come without a byte of its body."""
_HEADER_COUNT = 256
_LENGTH, _CODING = b"content-length", b"transfer-encoding"
_FRAMING = frozenset({"content-length", "transfer-encoding"})
_FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\n-\x1f\x7f]*\n)*")
_WITHOUT_BODY = (204, 304)


def request_head(
    method: str, target: str, headers: Iterable[tuple[str, str]], body_bytes: int
) -> bytes:
    """The head of a request with a body of that size; other words on its size are left out.

    Bytes that are no UTF-8 are surrogates in a value, and leave as they came. Raises ValueError
    for what the server would read as something else.
    """
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers if name.lower() not in _FRAMING]
    lines.append(f"content-length: {body_bytes}\r\n\r\n")
    head = "\r\n".join(lines).encode("utf-8", "surrogateescape")
    breaks = len(lines) + 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise ValueError("a header holds a line break or a zero byte")
    if lines[0].count(" ") != 2 or not lines[0].isascii():
        raise ValueError("the method or the target contains a space or a non-ASCII character")
    return head


class AnswerReader:
    """The answer to one request, fed as it comes. The methods `on_…` are called by the parser."""

    def __init__(self, method: str) -> None:
        self.status = 0
        """Of the final answer, when its head is there."""
        self.headers: Headers = []
        self.parts: list[bytes] = []
        """The body as far as it came and was not taken away."""
        self.held_bytes = 0
        """At least as much as there is in `parts`."""
        self.whole = False
        self.reusable = False
        """Whether the connection may carry another request after this answer."""
        self.until_close = False
        """Whether the end of the connection is the end of the body."""
        self.flaw: str | None = None
        """Why this is no answer, or the rest of it is none."""
        self._method = method
        self._end = 0
        # All that is done for a piece of a body: pieces that come together stay together.
        self.on_body = self.parts.append
        self._parser: Any = httptools.HttpResponseParser(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Read on; the data may be overwritten after that."""
        if self.whole:
            self.reusable = False
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reject(str(error))
        self.held_bytes += len(data)
        if self.whole:
            # What follows an answer answers nothing that was asked.
            self.reusable = self.reusable and len(self.parts) == self._end
            del self.parts[self._end :]
            self._parser = None  # Else it and we would hold each other.
        elif self.held_bytes > _HEAD_BYTES and not self.parts:
            self._reject(f"{self.held_bytes} bytes without one of a body")

    def feed_end(self) -> None:
        """The server closed its side in order: the end of a body that has no other."""
        if self.until_close and self.flaw is None:
            self.whole = True

    def take(self) -> bytes:
        """What came of the body since the last time."""
        data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        self.held_bytes = 0
        return data

    def on_message_begin(self) -> None:
        if self.whole:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.status or self.flaw is not None:
            return
        status = self._parser.get_status_code()
        framing = [pair for pair in self.headers if pair[0] in (_LENGTH, _CODING)]
        flaw = _flaw(status, self._parser.get_http_version(), self.headers, framing)
        if flaw is not None:
            self._reject(flaw)
        elif status < 200:
            self.headers.clear()
        else:
            self.status = status
            self.reusable = self._parser.should_keep_alive()
            if self._method == "HEAD" or status in _WITHOUT_BODY:
                # The parsers expect a body that is announced, but none comes.
                self.reusable = self.reusable and not framing
                self.whole = True
            else:
                self.until_close = not framing

    def on_message_complete(self) -> None:
        if self.status and not self.whole:
            self.whole, self._end = True, len(self.parts)

    def _reject(self, flaw: str) -> None:
        self.reusable = False
        if not self.whole and self.flaw is None:
            self.flaw = flaw


def _flaw(status: int, version: str, headers: Headers, framing: Headers) -> str | None:
    """What is wrong with the head of an answer, of all that the parsers let pass."""
    if version not in ("1.0", "1.1") or not 100 <= status < 600 or status == 101:
        return f"the status line says HTTP/{version} {status}"
    if len(headers) > _HEADER_COUNT:
        return f"{len(headers)} headers"
    fields = b"".join([b"%b:%b\n" % pair for pair in headers])
    if len(fields) > _HEAD_BYTES:
        return f"a head of more than {_HEAD_BYTES} bytes"
    if not _FIELDS.fullmatch(fields):
        return "a header contains invalid characters"
    if len(framing) > 1 or (framing and status < 200):
        return f"{len(framing)} headers that say how long an answer with {status} is"
    if framing and framing[0][0] == _CODING and framing[0][1].lower() != b"chunked":
        return "the transfer encoding is not 'chunked'"
    return None
