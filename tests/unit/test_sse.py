# SPDX-License-Identifier: Apache-2.0
"""Server-sent events of the gateway's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparkd.core import sse


def test_comment_is_one_event_that_clients_ignore() -> None:
    assert sse.comment("loading m 42s") == b": loading m 42s\n\n"


@given(st.text())
def test_no_text_breaks_out_of_its_comment(text: str) -> None:
    comment = sse.comment(text).decode()
    assert comment.startswith(": ")
    assert comment.endswith("\n\n")
    assert len(comment.splitlines()) == 2
    assert "\r" not in comment
    assert "\n" not in comment[:-2]
