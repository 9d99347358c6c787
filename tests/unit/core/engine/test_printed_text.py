# SPDX-License-Identifier: Apache-2.0
"""Text of engines: one plain bounded line for each, whatever an engine prints."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.adapters.journal.reader import logged as log_line
from sparkd.core.engine.printed_text import (
    LINE_LIMIT,
    WORDS_LIMIT_BYTES,
    exit_words,
    last_words,
    logged,
    plain,
)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("loading 10%\rloading 60%\rloading 100%", "loading 100%"),
        ("loading 100%\r", "loading 100%"),
        ("done\r   \r", "done"),
        ("\x1b[1;31mERROR\x1b[0m no memory", "ERROR no memory"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]0;never ended", ""),
        ("\x1b(Btext\x1b", "text"),
        ("\x9b31mtext", "text"),
        ("a\x07b\x00c\u202ed", "a b c d"),
        ("x" * 500, "x" * (LINE_LIMIT - 1) + "…"),
        ("\ud800 half", "half"),
        ("", ""),
    ],
)
def test_line_reads_as_a_terminal_would_show_it_in_the_end(printed: str, shown: str) -> None:
    assert plain(printed) == shown


@given(st.lists(st.text(max_size=400), max_size=40))
def test_last_words_are_printable_and_bounded(lines: list[str]) -> None:
    said = last_words(lines)
    assert said == "" or said.isprintable()
    assert len(said.encode()) <= WORDS_LIMIT_BYTES


def test_last_words_are_the_newest_and_each_is_said_once_in_a_row() -> None:
    bars = "\r".join(f"loading {n}%" for n in range(100))
    lines = [f"line {n}" for n in range(50)] + ["retry", "retry", bars, "RuntimeError: dead"]
    said = last_words(lines)
    assert said.endswith("line 49 | retry | loading 99% | RuntimeError: dead")
    assert "line 1 " not in said


def test_long_lines_leave_room_for_the_last_ones() -> None:
    said = last_words(["ü" * 5000] * 3 + [f"{n} " + "ü" * 5000 for n in range(20)] + ["the end"])
    assert said.endswith("| the end")
    assert len(said.encode()) <= WORDS_LIMIT_BYTES


def test_hostile_escapes_are_read_in_linear_time() -> None:
    assert plain("\x1b[" + "0;" * 200_000)


def test_exit_code_names_its_signal() -> None:
    assert exit_words(137) == "code 137 (SIGKILL)"
    assert exit_words(0) == "code 0"
    assert exit_words(75) == "code 75"


def test_blob_of_a_progress_bar_is_text() -> None:
    blob = list(b"\x1b[2K 10%\r\x1b[32m 100%\x1b[0m")
    assert logged({"MESSAGE": blob}) == "100%"
    assert logged({"MESSAGE": "    indented"}) == "    indented"
    assert logged({"MESSAGE": None}) == logged({}) == logged({"MESSAGE": ["x", 300]}) == ""


def test_line_of_a_log_has_its_time_or_is_left_out() -> None:
    entry = {"__REALTIME_TIMESTAMP": "1796085081550635", "MESSAGE": "hello"}
    line = log_line(json.dumps(entry).encode())
    assert line is not None
    assert line.endswith(" hello\n")
    assert line.startswith(("2026-11-30T", "2026-12-01T"))
    for bad in (b"", b"[]", b"{}", b'{"__REALTIME_TIMESTAMP": "1e999"}', b"[" * 100_000):
        assert log_line(bad) is None
