# SPDX-License-Identifier: Apache-2.0
"""An answer is the same however its bytes were cut, and what is none is never taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sparkd.core.http.response_parser import AnswerReader, _flaw, request_head

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    status: int = 200
    body: bytes = b""
    whole: bool = True
    reusable: bool = True


ANSWERS = {
    "content-length": (OK + b"Content-Length: 5\r\n\r\nhello", Read(body=b"hello")),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", Read()),
    "chunked": (CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", Read(body=b"hello")),
    "chunked, empty": (CHUNKED + b"0\r\n\r\n", Read()),
    "chunk extension": (CHUNKED + b'5;a="b"\r\nhello\r\n0;c\r\n\r\n', Read(body=b"hello")),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX-Late: 1\r\n\r\n", Read(body=b"hello")),
    "case of headers": (
        OK + b"tRANSFER-eNCODING: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Read(body=b"hello"),
    ),
    "connection: close": (
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
        Read(body=b"hello", reusable=False),
    ),
    "HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        Read(body=b"hello", reusable=False),
    ),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", Read(body=b"hello")),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", Read(status=204)),
    "204 with a length": (
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        Read(status=204, reusable=False),
    ),
    "304 with a length": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        Read(status=304, reusable=False),
    ),
    "after 100": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",
        Read(body=b"hello"),
    ),
    "after 103 and 102": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        + OK
        + b"Content-Length: 5\r\n\r\nhello",
        Read(body=b"hello"),
    ),
    "error status": (
        b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nhello",
        Read(status=503, body=b"hello"),
    ),
    "unusual status": (
        b"HTTP/1.1 599 No\r\nContent-Length: 5\r\n\r\nhello",
        Read(status=599, body=b"hello"),
    ),
}

UNTIL_CLOSE = {
    "no length": (OK + b"X: 1\r\n\r\nhello", b"hello"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
    "empty": (OK + b"X: 1\r\n\r\n", b""),
}

TRAILING = {
    "one more byte": OK + b"Content-Length: 5\r\n\r\nhelloH",
    "garbage": OK + b"Content-Length: 5\r\n\r\nhello, world",
    "a second answer": (OK + b"Content-Length: 5\r\n\r\nhello") * 2,
    "after the last chunk": CHUNKED + b"5\r\nhello\r\n0\r\n\r\nX",
    "after close": OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello!",
}

FLAWED = {
    "no HTTP": b"hello\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status past 599": b"HTTP/1.1 600 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status with a letter": b"HTTP/1.1 2x0 OK\r\n\r\n",
    "unasked switch of protocols": (
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    ),
    "101 without a protocol": b"HTTP/1.1 101 Switching\r\n\r\n",
    "1xx with a length": b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello",
    "1xx in chunks": b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no colon": OK + b"X-No-Colon\r\n\r\n",
    "name with a space": OK + b"Content-Length : 5\r\n\r\nhello",
    "name with a zero": OK + b"X\0Y: 1\r\n\r\n",
    "value with a zero": OK + b"X: a\0b\r\n\r\n",
    "value that is a zero": OK + b"X: \0\r\n\r\n",
    "value with a delete": OK + b"X: a\x7fb\r\n\r\n",
    "both lengths": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, reversed": (
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "one length twice": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "negative length": OK + b"Content-Length: -5\r\n\r\nhello",
    "signed length": OK + b"Content-Length: +5\r\n\r\nhello",
    "hexadecimal length": OK + b"Content-Length: 0x5\r\n\r\nhello",
    "no number": OK + b"Content-Length: five\r\n\r\nhello",
    "empty length": OK + b"Content-Length: \r\n\r\nhello",
    "huge length": OK + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "unknown coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "coding and chunks": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\n\r\nhello",
    "chunked twice": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "257 headers": OK + b"X: 1\r\n" * 257 + b"\r\n",
    "64 KiB of headers": OK + (b"X: " + b"a" * 1000 + b"\r\n") * 66 + b"\r\n",
    "a header of 64 KiB": OK + b"X: " + b"a" * 65536 + b"\r\n\r\n",
}

BROKEN_CHUNKS = {
    "size is no number": b"zz\r\nhello\r\n",
    "size is negative": b"-5\r\nhello\r\n",
    "size is huge": b"fffffffffffffffff\r\nhello\r\n",
    "size is missing": b"\r\nhello\r\n",
    "chunk is longer than its size": b"3\r\nhello\r\n",
    "chunk does not end": b"5\r\nhelloworld\r\n",
}

ENDLESS = {
    "header": (OK + b"X: ", b"a" * 997),
    "headers": (OK, b"Xy: 1\r\n" * 100),
    "status line": (b"HTTP/1.1 200 ", b"a" * 997),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10),
    "chunk extension": (CHUNKED + b"5;", b"a" * 997),
    "trailer": (CHUNKED + b"0\r\nX: ", b"a" * 997),
}


def answers() -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("raw", "expected"), ANSWERS.values(), ids=ANSWERS)


def fed(pieces: Iterator[bytes] | list[bytes], method: str = "POST") -> AnswerReader:
    reader = AnswerReader(method)
    for piece in pieces:
        if reader.flaw is None:
            reader.feed(piece)
    return reader


def every_cut(raw: bytes) -> Iterator[list[bytes]]:
    yield [raw]
    yield [raw[at : at + 1] for at in range(len(raw))]
    # Long ones are cut where it matters: at their ends.
    for at in (*range(1, min(len(raw), 200)), *range(max(200, len(raw) - 50), len(raw))):
        yield [raw[:at], raw[at:]]


def what(reader: AnswerReader) -> Read:
    return Read(
        status=reader.status,
        body=b"".join(reader.parts),
        whole=reader.whole,
        reusable=reader.reusable,
    )


@answers()
def test_answer_is_read_alike_however_it_is_cut(raw: bytes, expected: Read) -> None:
    for pieces in every_cut(raw):
        reader = fed(pieces)
        assert (reader.flaw, what(reader)) == (None, expected), pieces


@answers()
def test_answer_is_not_whole_before_its_last_byte(raw: bytes, expected: Read) -> None:
    for size in range(len(raw)):
        reader = fed([raw[:size]])
        reader.feed_end()
        assert not reader.whole, raw[:size]


@answers()
def test_answer_of_memory_that_is_overwritten_stays(raw: bytes, expected: Read) -> None:
    memory = bytearray(raw)
    reader = AnswerReader("POST")
    reader.feed(memoryview(memory))
    memory[:] = b"#" * len(memory)
    assert what(reader) == expected
    assert b"#" not in b"".join(name + value for name, value in reader.headers)


@pytest.mark.parametrize(("raw", "body"), UNTIL_CLOSE.values(), ids=UNTIL_CLOSE)
def test_body_without_a_length_ends_with_the_connection(raw: bytes, body: bytes) -> None:
    for pieces in every_cut(raw):
        reader = fed(pieces)
        assert not reader.whole
        reader.feed_end()
        assert what(reader) == Read(body=body, reusable=False)


@pytest.mark.parametrize("method", ["HEAD"])
@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: 1"])
def test_answer_to_head_has_no_body(method: str, framing: bytes) -> None:
    for pieces in every_cut(OK + framing + b"\r\n\r\n"):
        assert what(fed(pieces, method)) == Read(reusable=False)


def test_body_that_comes_with_an_answer_to_head_is_left_out() -> None:
    for pieces in every_cut(OK + b"Content-Length: 5\r\n\r\nhello"):
        assert what(fed(pieces, "HEAD")) == Read(reusable=False)


@pytest.mark.parametrize("raw", TRAILING.values(), ids=TRAILING)
def test_nothing_after_an_answer_gets_into_it_or_is_waited_for(raw: bytes) -> None:
    for pieces in every_cut(raw):
        reader = fed(pieces)
        assert (reader.flaw, what(reader)) == (None, Read(body=b"hello", reusable=False)), pieces


@pytest.mark.parametrize("raw", FLAWED.values(), ids=FLAWED)
def test_malformed_head_is_a_flaw(raw: bytes) -> None:
    for pieces in every_cut(raw):
        reader = fed(pieces)
        assert reader.flaw, pieces
        assert not reader.status
        reader.feed_end()
        assert not reader.whole
        assert not reader.reusable


@pytest.mark.parametrize("chunks", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_malformed_chunk_is_a_flaw_after_what_came_before(chunks: bytes) -> None:
    for pieces in every_cut(CHUNKED + b"2\r\nok\r\n" + chunks):
        reader = fed(pieces)
        assert reader.flaw, pieces
        assert reader.take().startswith(b"ok")
        reader.feed_end()
        assert not reader.whole


@pytest.mark.parametrize(("begin", "more"), ENDLESS.values(), ids=ENDLESS)
def test_what_never_becomes_an_answer_is_a_flaw_after_64_kib(begin: bytes, more: bytes) -> None:
    reader = fed([begin])
    size = len(begin)
    while reader.flaw is None and size < 1 << 20:
        reader.feed(more)
        size += len(more)
    assert reader.flaw
    assert size < (1 << 16) + 2 * len(more)


def test_long_body_is_no_flaw() -> None:
    reader = fed([OK + b"Content-Length: 200000\r\n\r\n"])
    for _ in range(200):
        reader.feed(b"a" * 1000)
    assert (reader.flaw, reader.whole, len(reader.take())) == (None, True, 200000)


def test_headers_come_as_sent_in_lower_case_without_those_of_interim_answers_and_trailers() -> None:
    raw = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nX-Empty:\r\nX-Two: a\r\nX-Two:  b \r\nX-Bytes: \xc3\xa9\xff\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Late: 1\r\n\r\n"
    )
    for pieces in every_cut(raw):
        headers = [(name, value.strip()) for name, value in fed(pieces).headers]
        assert headers == [
            (b"x-empty", b""),
            (b"x-two", b"a"),
            (b"x-two", b"b"),
            (b"x-bytes", b"\xc3\xa9\xff"),
            (b"transfer-encoding", b"chunked"),
        ], pieces


def test_folded_header_never_holds_a_line_break() -> None:
    for pieces in every_cut(OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n"):
        values = [value for _, value in fed(pieces).headers]
        assert not any(b"\r" in value or b"\n" in value for value in values)


def test_pieces_of_one_arrival_are_taken_together() -> None:
    reader = fed([CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n"])
    assert (reader.take(), reader.take(), reader.held_bytes) == (b"hello", b"", 0)


@pytest.mark.parametrize(
    "header",
    [(b"Content-Length ", b"5"), (b"X", b"\0"), (b"X", b"a\r\nY: b"), (b"X", b"\n"), (b"", b"")],
)
def test_header_that_is_none_is_a_flaw_also_where_the_parser_lets_it_pass(
    header: tuple[bytes, bytes],
) -> None:
    assert _flaw(200, "1.1", [(b"X-A", b"b"), header], [])
    assert not _flaw(200, "1.1", [(b"X-A", b"b\t \xff"), (b"X-Empty", b"")], [])


def test_second_flaw_does_not_replace_the_first() -> None:
    reader = AnswerReader("POST")
    reader.feed(OK + b"Transfer-Encoding: gzip\r\n\r\n")
    first = reader.flaw
    reader.feed(b"\0" * 70000)
    assert first
    assert reader.flaw == first


def test_request_head_says_its_length_once_and_keeps_every_byte() -> None:
    headers = [("X-A", "\udcff\xe9"), ("Content-Length", "9"), ("TRANSFER-encoding", "x")]
    assert request_head("POST", "/v1/a?b", headers, 3) == (
        b"POST /v1/a?b HTTP/1.1\r\nX-A: \xff\xc3\xa9\r\ncontent-length: 3\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("method", "target", "header"),
    [
        ("POST", "/", ("X", "a\r\nY: b")),
        ("POST", "/", ("X", "a\nY: b")),
        ("POST", "/", ("X", "a\rb")),
        ("POST", "/", ("X", "a\0b")),
        ("POST", "/", ("X\r\nY", "a")),
        ("POST", "/ HTTP/1.1\r\nX: y\r\n\r\n", ("X", "a")),
        ("POST", "/a b", ("X", "a")),
        ("PO ST", "/", ("X", "a")),
        ("PÖST", "/", ("X", "a")),
    ],
)
def test_request_that_would_read_as_another_is_refused(
    method: str, target: str, header: tuple[str, str]
) -> None:
    with pytest.raises(ValueError):
        request_head(method, target, [header], 0)
