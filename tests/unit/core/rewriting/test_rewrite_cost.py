# SPDX-License-Identifier: Apache-2.0
"""The cost of each rewriting rule grows with the size of the body and no faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from sparkd.core.model import Dialect, ModelSpec, Rewrite
from sparkd.core.rewriting.rules import RULES, rewrite

SIZE = 3_000
GROWTH = 8
BOUND = 3.5 * GROWTH
"""A linear rule takes 8 times as long for 8 times the size, a quadratic one 64 times."""
ATTEMPTS = 4
LONG = "some words of a longer text. " * 10

Bodies = Callable[[int], dict[str, Any]]


def _texts(count: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": LONG}] * count}


def _parts(count: int) -> dict[str, Any]:
    part = {"type": "text", "text": LONG}
    return {"messages": [{"role": "user", "content": [part, part]}] * count}


def _pictures(count: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url"}, "a"]}] * count}


def _systems(count: int) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": LONG}] * count}


def _calls(count: int) -> dict[str, Any]:
    said = {"role": "assistant", "reasoning": LONG, "tool_calls": [{"id": "a"}]}
    return {"messages": [said] * count}


def _fields(count: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", f"x{number}": "y"} for number in range(count)]}


def _part_fields(count: int) -> dict[str, Any]:
    parts = ({"type": "text", "text": "a", f"x{number}": 1} for number in range(count))
    return {"messages": [{"role": "user", "content": [part]} for part in parts]}


def _one_message(count: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}] * count}]}


def _tools(count: int) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"a": {"type": "array", "description": LONG}}}
    return {"tools": [{"function": {"name": "f", "parameters": schema}}] * count}


def _properties(count: int) -> dict[str, Any]:
    schema = {"type": "object", "properties": {str(n): {"type": "array"} for n in range(count)}}
    return {"tools": [{"function": {"name": "f", "parameters": schema}}]}


def _number(count: int) -> dict[str, Any]:
    return {"messages": [], "max_tokens": "9" * 18, "reasoning_effort": " " * 100 * count}


BODIES: list[Bodies] = [
    *(_texts, _parts, _pictures, _systems, _calls, _fields, _part_fields, _one_message),
    *(_tools, _properties, _number),
]


def seconds(spec: ModelSpec, body: dict[str, Any]) -> float:
    began_s = time.process_time()
    rewrite(spec, Dialect.CHAT, body)
    return time.process_time() - began_s


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("bodies", BODIES, ids=lambda bodies: bodies.__name__.strip("_"))
def test_cost_of_a_rule_grows_no_faster_than_the_body(rule: Rewrite, bodies: Bodies) -> None:
    spec = ModelSpec(model_id="m", image="i", rewrite=(rule,), max_model_len=8192)
    small, large = bodies(SIZE), bodies(SIZE * GROWTH)
    ratio = float("inf")
    for _ in range(ATTEMPTS):
        least_s = min(seconds(spec, small) for _ in range(3))
        # Below the resolution of a busy machine's clock, only the absolute cost says anything.
        ratio = min(ratio, seconds(spec, large) / max(least_s, 0.0005))
        if ratio < BOUND:
            return
    pytest.fail(f"{GROWTH} times the size cost {ratio:.0f} times the time")
