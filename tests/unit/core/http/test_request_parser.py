# SPDX-License-Identifier: Apache-2.0
"""A request is the same however its bytes were cut; what can be read in two ways is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sanic import Request

from sparkd.core.http.request_parser import (
    HEADER_LINES,
    ChunkedBody,
    HeadTooLarge,
    Malformed,
    connection_options,
    head_end,
    parse_head,
)

POST = b"POST /v1/x HTTP/1.1\r\nHost: h"


def body_of(data: bytes, *, cut: int) -> tuple[bytes, bytes, bool]:
    """What comes out of pieces of that size, what is left, and whether it was the end."""
    body, buffer, out = ChunkedBody(), bytearray(), b""
    for at in range(0, len(data), cut):
        buffer += data[at : at + cut]
        while not body.whole and (part := body.take(buffer)):
            out += part
    return out, bytes(buffer), body.whole


def test_head_is_read_in_full() -> None:
    head = parse_head(POST + b"\r\nX-Ab: \t 1 2 \t\r\nContent-Length: 12\r\nX-Raw: \xff\xc3\xa9")
    assert (head.method, head.target, head.minor) == ("POST", b"/v1/x", 1)
    assert head.headers[:3] == [("host", "h"), ("x-ab", "1 2"), ("content-length", "12")]
    assert head.headers[3][1].encode("utf-8", "surrogateescape") == b"\xff\xc3\xa9"
    assert (head.length, head.keep_alive) == (12, True)


def test_body_in_chunks_has_no_length_and_one_that_is_not_named_is_empty() -> None:
    assert parse_head(POST + b"\r\nTransfer-Encoding: Chunked").length is None
    assert parse_head(POST).length == 0


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (POST, True),
        (POST + b"\r\nConnection: close", False),
        (POST + b"\r\nConnection: x-a, Close", False),
        (POST + b"\r\nConnection: keep-alive\r\nConnection: close", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive", True),
    ],
)
def test_connection_is_kept_as_both_sides_mean_it(head: bytes, keep_alive: bool) -> None:
    assert parse_head(head).keep_alive is keep_alive


MALFORMED = {
    "both lengths": POST + b"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
    "two lengths": POST + b"\r\nContent-Length: 3\r\nContent-Length: 4",
    "the same length twice": POST + b"\r\nContent-Length: 3\r\nContent-Length: 3",
    "a list of lengths": POST + b"\r\nContent-Length: 3, 3",
    "two codings": POST + b"\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "another coding": POST + b"\r\nTransfer-Encoding: gzip, chunked",
    "a disguised coding": POST + b"\r\nTransfer-Encoding: xchunked",
    "chunks of HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked",
    "a sign": POST + b"\r\nContent-Length: +3",
    "a negative length": POST + b"\r\nContent-Length: -3",
    "digits of another script": POST + "\r\nContent-Length: ٣".encode(),
    "an underscore in a number": POST + b"\r\nContent-Length: 1_0",
    "a hexadecimal length": POST + b"\r\nContent-Length: 0x3",
    "an empty length": POST + b"\r\nContent-Length:",
    "a length without end": POST + b"\r\nContent-Length: " + b"9" * 30,
    "a space before the colon": POST + b"\r\nContent-Length : 3",
    "a folded line": POST + b"\r\nX-A: 1\r\n 2",
    "a folded first header": b"GET / HTTP/1.1\r\n Host: h",
    "a bare LF in a value": POST + b"\r\nX-A: 1\nX-B: 2",
    "a bare CR in a value": POST + b"\r\nX-A: 1\rX-B: 2",
    "a zero byte": POST + b"\r\nX-A: 1\x00",
    "no colon": POST + b"\r\nX-A",
    "no name": POST + b"\r\n: 1",
    "a name that is none": POST + b"\r\nX(A): 1",
    "no host": b"GET / HTTP/1.1\r\nX-A: 1",
    "two hosts": POST + b"\r\nHost: g",
    "no version": b"GET /",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nHost: h",
    "HTTP/2": b"PRI * HTTP/2.0",
    "a version with more digits": b"GET / HTTP/1.10\r\nHost: h",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: h",
    "a tab": b"GET\t/ HTTP/1.1\r\nHost: h",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: h",
    "a target that is not ASCII": "GET /ä HTTP/1.1\r\nHost: h".encode(),
    "an authority": b"CONNECT h:80 HTTP/1.1\r\nHost: h",
    "a method that is none": b"G(T / HTTP/1.1\r\nHost: h",
    "nothing": b"",
}


@pytest.mark.parametrize("head", MALFORMED.values(), ids=MALFORMED)
def test_what_two_readers_could_read_apart_is_refused(head: bytes) -> None:
    with pytest.raises(Malformed):
        parse_head(head)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_malformed(data: bytes) -> None:
    for head in (data, POST + b"\r\n" + data, b"GET /" + data + b" HTTP/1.1\r\nHost: h"):
        try:
            found = parse_head(head)
        except Malformed:
            continue
        assert all("\r" not in value and "\n" not in value for _, value in found.headers)


@pytest.mark.parametrize(
    "begun",
    [b"\x16\x03\x01\x02\x00", b" GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\nHost: h\n\n", b"\x00"],
    ids=["TLS", "a space", "bare LF", "a zero byte"],
)
def test_head_that_can_never_end_is_refused_at_once(begun: bytes) -> None:
    with pytest.raises(Malformed):
        head_end(bytearray(begun), 8192)


@pytest.mark.parametrize("begun", [b"", b"P", b"POST /", b"GET / HTTP/1.1\r", POST + b"\r\n"])
def test_head_that_may_yet_end_is_waited_for(begun: bytes) -> None:
    assert head_end(bytearray(begun), 8192) is None


def test_head_over_the_limit_is_refused_whether_it_ends_or_not() -> None:
    for tail in (b"", b"\r\n\r\n"):
        with pytest.raises(Malformed, match="more than 64 bytes"):
            head_end(bytearray(POST + b"\r\nX: " + b"a" * 64 + tail), 64)


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 1000])
def test_chunks_are_read_however_they_are_cut(cut: int) -> None:
    data = b'5;a="b"\r\nhello\r\n0006 ;x\r\n world\r\n0\r\nX-Late: 1\r\n\r\nGET / HTTP/1.1'
    assert body_of(data, cut=cut) == (b"hello world", b"GET / HTTP/1.1", True)


BROKEN_CHUNKS = {
    "longer than it says": b"3\r\nhello\r\n0\r\n\r\n",
    "no number": b"x\r\n",
    "a sign": b"+5\r\nhello\r\n",
    "a prefix": b"0x5\r\nhello\r\n",
    "an underscore": b"1_0\r\nhello\r\n",
    "a space before": b" 5\r\nhello\r\n",
    "digits of another script": b"\xd9\xa5\r\nhello\r\n",
    "a size without end": b"F" * 20 + b"\r\n",
    "nothing": b"\r\n",
    "bare LF": b"5\nhello\n0\n\n",
    "bare LF after data": b"5\r\nhello\n0\r\n\r\n",
    "a zero byte in an extension": b"5;\x00\r\nhello\r\n",
    "an extension without end": b"5;" + b"a" * 2000,
    "a trailer that is none": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "trailers without end": b"0\r\n" + b"X: 1\r\n" * 100,
}


@pytest.mark.parametrize("cut", [1, 1000])
@pytest.mark.parametrize("data", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_broken_chunks_are_refused(data: bytes, cut: int) -> None:
    with pytest.raises(Malformed):
        body_of(data, cut=cut)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.integers(1, 50))
def test_whatever_is_put_into_chunks_comes_out(parts: list[bytes], cut: int) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert body_of(data + b"next", cut=cut) == (b"".join(parts), b"next", True)


@given(st.binary(max_size=100), st.integers(1, 9))
def test_any_bytes_are_chunks_or_malformed(data: bytes, cut: int) -> None:
    try:
        body_of(data, cut=cut)
    except Malformed:
        return


def test_options_of_a_connection_are_words_of_all_its_headers() -> None:
    assert connection_options(["Close, X-A", "x-b ,,TE"]) == {"close", "x-a", "x-b", "te"}


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a?b=c", b"/a?b=c"),
        (b"http://h/a?b=c", b"/a?b=c"),
        (b"HTTPS://[::1]:8009/a", b"/a"),
        (b"http://h", b"/"),
        (b"http://h:80?b", b"/?b"),
        (b"*", b"*"),
    ],
)
def test_target_in_any_form_is_read_as_its_path(target: bytes, path: bytes) -> None:
    assert parse_head(b"GET " + target + b" HTTP/1.1\r\nHost: h").target == path


@given(st.binary(max_size=60), st.sampled_from([b"", b"/", b"//", b"http://", b"https://[", b"*"]))
def test_no_target_that_is_taken_makes_sanic_raise(rest: bytes, begin: bytes) -> None:
    target = begin + bytes(one % 94 + 33 for one in rest)
    try:
        head = parse_head(b"GET " + target + b" HTTP/1.1\r\nHost: h")
    except Malformed:
        return
    request = Request(head.target, head.headers, "1.1", "GET", None, None)  # type: ignore[arg-type]
    assert isinstance(request.path, str)
    assert request.args is not None


@given(st.integers(1, 40), st.lists(st.sampled_from([b"\r\n", b"\n", b"a: b", b"\r"]), max_size=8))
def test_head_in_pieces_ends_where_a_whole_one_does(cut: int, parts: list[bytes]) -> None:
    data = POST + b"\r\n" + b"".join(parts)
    assert ended(data, cut=cut) == ended(data, cut=len(data))


def ended(data: bytes, *, cut: int) -> int | str | None:
    """Where the head ends, or that none can come of it."""
    buffer = bytearray()
    for at in range(0, len(data), cut):
        seen = len(buffer)
        buffer += data[at : at + cut]
        try:
            end = head_end(buffer, 8192, seen)
        except Malformed:
            return "malformed"
        if end is not None:
            return end
    return None


def test_head_in_single_bytes_costs_no_more_than_a_few_passes() -> None:
    class Counted(bytearray):
        """Notes how much of it was searched."""

        searched = 0

        def find(self, what: bytes, start: int = 0) -> int:  # type: ignore[override]
            Counted.searched += len(self) - start
            return super().find(what, start)

    buffer = Counted(POST)
    for _ in range(10_000):
        seen = len(buffer)
        buffer += b"x"
        assert head_end(buffer, 1 << 16, seen) is None
    assert Counted.searched < 10 * len(buffer)


def test_more_headers_than_any_client_sends_are_too_large() -> None:
    lines = b"\r\nX-A: 1" * (HEADER_LINES - 1)
    assert len(parse_head(POST + lines).headers) == HEADER_LINES
    with pytest.raises(HeadTooLarge):
        parse_head(POST + lines + b"\r\nX-A: 1")
