# SPDX-License-Identifier: Apache-2.0
"""The estimate of a prompt's tokens: what counts, and how much."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.model import Dialect
from sparkd.core.rewriting import tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("a", 1),
        ("abcd", 1),
        ("abcde", 2),
        ("x" * 1_000_000, 250_000),
        ("ä", 1),
        ("ää", 1),
        ("äää", 2),
        ("漢字漢字", 3),
        ("😀" * 10, 5),
        ("a😀", 1),
        ("\ud800", 1),
    ],
)
def test_text_counts_by_its_characters(text: str, expected: int) -> None:
    assert tokens.of_text(text) == expected


@given(st.text(st.characters(exclude_categories=[])), st.text())
def test_longer_text_never_counts_less(text: str, more: str) -> None:
    assert tokens.of_text(text) <= tokens.of_text(text + more)
    assert tokens.of_text(text) <= len(text)


TOOL = {"type": "function", "function": {"name": "f" * 50, "parameters": {"a": [1, None, True]}}}


def test_tools_count_about_what_their_json_takes() -> None:
    many = [TOOL] * 50
    exact = len(json.dumps(many, separators=(",", ":"))) / 4
    assert exact * 0.9 < tokens.of_json(many) < exact * 1.1
    assert tokens.of_json(None) == 0


CHAT: list[tuple[dict[str, Any], int]] = [
    ({}, 500),
    ({"messages": []}, 500),
    ({"messages": [{"role": "user", "content": "Hello"}]}, 522),
    ({"messages": [{"role": "user", "content": None}, {}]}, 540),
    ({"messages": [{"content": [{"type": "text", "text": "abcde"}, "a"]}]}, 523),
    ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "x" * 9999}}]}]}, 2020),
    ({"messages": [{"content": [{"type": "input_audio", "input_audio": {}}]}]}, 2020),
    ({"messages": [{"content": [{"type": ["x"], "a": "b"}]}]}, 521),
    ({"messages": [{"tool_calls": [{"function": {"arguments": "abcde"}}]}]}, 522),
    ({"messages": [{"reasoning_content": "abcde"}]}, 522),
    ({"messages": [7, "abcde", None]}, 562),
    ({"messages": "abcde"}, 502),
    ({"tools": [TOOL]}, 500),
    ({"tools": [TOOL] * 50}, tokens.of_json([TOOL] * 50)),
    ({"functions": [TOOL] * 25, "tools": [TOOL] * 25}, 2 * tokens.of_json([TOOL] * 25)),
    ({"prompt": "not read", "input": "neither"}, 500),
]


@pytest.mark.parametrize(("body", "expected"), CHAT)
def test_chat_counts_all_that_the_model_reads(body: dict[str, Any], expected: int) -> None:
    assert tokens.of_prompt(Dialect.CHAT, body) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (None, 0),
        ("abcde", 2),
        ([], 0),
        (["a", "abcde"], 2),
        ([1, 2, 3], 3),
        ([[1, 2, 3], [1]], 3),
        ([["a"], "abcdefghi"], 3),
        ({"a": "b"}, 1),
    ],
)
def test_plain_prompts_count_each_for_itself(prompt: object, expected: int) -> None:
    assert tokens.of_prompt(Dialect.COMPLETIONS, {"prompt": prompt, "tools": [TOOL]}) == expected


def test_other_dialects_count_their_own_fields() -> None:
    responses = {"instructions": "abcd", "input": [{"role": "user", "content": "abcd"}]}
    assert tokens.of_prompt(Dialect.RESPONSES, responses) == 522
    messages = {
        "system": [{"type": "text", "text": "abcd"}],
        "messages": [{"role": "user", "content": [{"type": "tool_result", "content": "abcd"}]}],
    }
    assert tokens.of_prompt(Dialect.MESSAGES, messages) == 500 + 20 + 1 + 20 + 1
