# SPDX-License-Identifier: Apache-2.0
"""Server-sent events of the gateway's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.http import sse


def test_comment_is_one_event_that_clients_ignore() -> None:
    assert sse.comment("loading m 42s") == b": loading m 42s\n\n"


def marked(*pieces: bytes) -> bool:
    mark = sse.EndMark()
    for piece in pieces:
        mark.feed(piece)
    return mark.seen


def test_mark_of_an_end_is_a_whole_line_wherever_it_is_cut() -> None:
    for line in (b"data: [DONE]", b"event: message_stop\r", b"event: response.completed"):
        stream = b"data: {}\n\n" + line + b"\n\n"
        for at in range(len(stream)):
            assert marked(stream[:at], stream[at:]), (line, at)
        assert marked(line)
        # What only begins like it, or ends like it after any length, is text of a model.
        for near in (line + b"x\n", b" " * 52 + line + b"\n", b"data: " + b"x" * 99 + line):
            for at in range(len(near)):
                assert not marked(near[:at], near[at:]), (near, at)


@given(st.lists(st.sampled_from([b"data: a", b": b", b"\r", b"\n", b"\r\n"])), st.integers(0, 99))
def test_events_are_read_alike_wherever_a_stream_is_cut(parts: list[bytes], at: int) -> None:
    stream, cut = b"".join(parts), sse.Reader()
    assert sse.Reader().feed(stream) == cut.feed(stream[:at]) + cut.feed(stream[at:])


@given(st.text())
def test_no_text_breaks_out_of_its_comment(text: str) -> None:
    comment = sse.comment(text).decode()
    assert comment.startswith(": ")
    assert comment.endswith("\n\n")
    assert len(comment.splitlines()) == 2
    assert "\r" not in comment
    assert "\n" not in comment[:-2]


def following(*pieces: bytes) -> int:
    number = sse.SequenceNumber()
    for piece in pieces:
        number.feed(piece)
    return number.following


def test_sequence_number_follows_the_last_one_wherever_the_stream_is_cut() -> None:
    stream = b'data: {"a": 1, "sequence_number":7}\n\ndata: {"sequence_number": 8, "b": 2}\n\n'
    for at in range(len(stream)):
        assert following(stream[:at], stream[at:]) == 9, at
    assert following(*(stream[at : at + 1] for at in range(len(stream)))) == 9
    assert following() == 0


def test_odd_sequence_numbers_and_text_of_a_model_change_nothing() -> None:
    good = b'data: {"sequence_number": 4}\n\n'
    for odd in (b"-1", b"1e5", b"1.5", b"null", b'"7"', b"9" * 19, b"9" * 400, b"[" * 999, b""):
        assert following(good, b'data: {"sequence_number": %b}\n\n' % odd) == 5, odd
    said = b'data: {"delta": "{\\"sequence_number\\": 70}"}\n\n'
    for at in range(len(said)):
        assert following(good, said[:at], said[at:] + b" " * 99) == 5, at


@given(st.lists(st.binary(max_size=200)))
def test_no_bytes_make_the_sequence_number_fail(pieces: list[bytes]) -> None:
    assert following(*pieces) >= 0
