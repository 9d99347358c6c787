# SPDX-License-Identifier: Apache-2.0
"""Anthropic's library for Python, as its users call it."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic
from conversation import TOOL, TOOL_SCHEMA, add, serve

TOOLS = [{"name": TOOL, "input_schema": TOOL_SCHEMA}]
MOST = 200


def client(url: str, key: str, retries: int = 0) -> Anthropic:
    return Anthropic(base_url=url, api_key=key, max_retries=retries, timeout=60)


def said(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}] if isinstance(text, str) else text


def chat(model: str, text: Any, **connection: Any) -> dict[str, Any]:
    answer = client(**connection).messages.create(model=model, max_tokens=MOST, messages=said(text))
    return {"text": answer.content[0].text, "finish": answer.stop_reason}


def stream(model: str, text: str, leave_after: int = 0, **extra: Any) -> dict[str, Any]:
    fake = extra.pop("fake", {})
    pieces = []
    with client(**extra).messages.stream(
        model=model, max_tokens=MOST, messages=said(text), extra_body={"fake": fake}
    ) as events:
        for piece in events.text_stream:
            pieces.append(piece)
            if leave_after and len(pieces) == leave_after:
                break
    return {"pieces": pieces}


def tool(model: str, text: str, **connection: Any) -> dict[str, Any]:
    ask = client(**connection).messages
    messages = said(text)
    first = ask.create(model=model, max_tokens=MOST, messages=messages, tools=TOOLS)
    (call,) = first.content
    result = {"type": "tool_result", "tool_use_id": call.id, "content": add(call.input)}
    messages.append({"role": "assistant", "content": first.content})
    messages.append({"role": "user", "content": [result]})
    last = ask.create(model=model, max_tokens=MOST, messages=messages, tools=TOOLS)
    return {"finish": first.stop_reason, "called": call.name, "text": last.content[0].text}


def tool_stream(model: str, text: str, **connection: Any) -> dict[str, Any]:
    with client(**connection).messages.stream(
        model=model, max_tokens=MOST, messages=said(text), tools=TOOLS
    ) as events:
        (call,) = events.get_final_message().content
    return {"called": call.name, "result": add(call.input)}


def count(model: str, text: str, **connection: Any) -> dict[str, Any]:
    counted = client(**connection).messages.count_tokens(model=model, messages=said(text))
    return {"tokens": counted.input_tokens}


serve({"chat": chat, "stream": stream, "tool": tool, "tool_stream": tool_stream, "count": count})
