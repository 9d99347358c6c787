# SPDX-License-Identifier: Apache-2.0
"""What a client of our own makes of the gateway's answers."""

from __future__ import annotations

import pytest

from sparkd.adapters.gateway_client import error_of
from sparkd.core.http.sse import Item, Reader
from sparkd.sparkctl.commands.run import Answer
from sparkd.sparkctl.exit_codes import Exit, exit_of


def test_events_and_comments_are_read_wherever_the_pieces_end() -> None:
    stream = b': sparkd loading m 2s\n\ndata: {"a": 1}\n\nevent: x\r\ndata: b\r\ndata: c\r\n\r\n'
    for cut in range(len(stream)):
        reader = Reader()
        items = [*reader.feed(stream[:cut]), *reader.feed(stream[cut:])]
        assert items == [
            Item("sparkd loading m 2s", is_comment=True),
            Item('{"a": 1}'),
            Item("b\nc"),
        ]


def test_event_without_its_end_is_not_read() -> None:
    assert Reader().feed(b"data: half") == []


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "invalid_api_key", Exit.NOT_PERMITTED),
        (404, "model_not_found", Exit.NOT_FOUND),
        (429, "busy", Exit.NOT_NOW),
        (502, "busy", Exit.NOT_NOW),
        (502, "start_crashed", Exit.START_FAILED),
        (503, "gpu_held", Exit.NOT_NOW),
        (404, "weights_missing", Exit.CONFIGURATION),
        (404, "weights_misplaced", Exit.CONFIGURATION),
        (404, "image_missing", Exit.START_FAILED),
        (504, "start_timed_out", Exit.START_FAILED),
    ],
)
def test_error_of_the_gateway_ends_with_the_exit_code_of_the_same_error_here(
    status: int, code: str, exit_code: Exit
) -> None:
    body = {"error": {"message": "no (do this)", "code": code, "hint": "do this"}}
    error = error_of(status, body)
    assert (error.message, error.hint, error.code) == ("no", "do this", code)
    assert exit_of(error) == exit_code


def test_answer_that_is_no_json_is_an_error_that_says_its_status() -> None:
    assert error_of(502, {}).message == "the gateway answers 502"


def test_answer_collects_text_and_reasoning_under_either_name() -> None:
    answer = Answer()
    for delta in (
        {"reasoning_content": "so "},
        {"reasoning": "then"},
        {"content": "yes"},
        {"role": "assistant", "content": None},
    ):
        answer.add({"choices": [{"delta": delta, "finish_reason": None}]})
    answer.add({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    answer.add({"choices": [], "usage": {"completion_tokens": 3}})
    assert (answer.text, answer.reasoning, answer.finish) == ("yes", "so then", "stop")
    assert answer.usage == {"completion_tokens": 3}
