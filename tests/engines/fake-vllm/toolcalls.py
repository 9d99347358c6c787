# SPDX-License-Identifier: Apache-2.0
"""Calls of tools: when the fake engine makes one, and how each dialect writes it.

A user who says `use NAME {"some": "arguments"}`, with a tool NAME in the request, has that tool
called with these arguments. Once its result is there, the answer is an echo of the result.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
_ASKED = re.compile(r"\buse (\w+) (?={)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    id: str
    name: str
    arguments: str

    def pieces(self) -> tuple[str, str]:
        """The arguments as they are streamed: in two parts, the first of which is no JSON."""
        half = len(self.arguments) // 2
        return self.arguments[:half], self.arguments[half:]


def call_of(body: Json, said: str, number: int) -> Call | None:
    """The call that a request with these last words is to be answered with."""
    asked = _ASKED.search(said)
    if asked is None or body.get("tool_choice") == "none" or asked[1] not in _offered(body):
        return None
    try:
        arguments, _ = json.JSONDecoder().raw_decode(said, asked.end())
    except ValueError:
        return None
    return Call(id=f"call_{number:08x}", name=asked[1], arguments=json.dumps(arguments))


def _offered(body: Json) -> set[str]:
    """The names of the request's tools; OpenAI's chat has them one level deeper."""
    tools = [tool for tool in body.get("tools") or [] if isinstance(tool, dict)]
    return {str((tool.get("function") or tool).get("name")) for tool in tools}


def result_in(message: Json) -> str | None:
    """What a tool said, if that is what the message tells."""
    if message.get("role") == "tool":
        return _text(message.get("content"))
    if message.get("type") == "function_call_output":
        return _text(message.get("output"))
    content = message.get("content")
    blocks = [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []
    results = [one for one in blocks if one.get("type") == "tool_result"]
    return " ".join(_text(one.get("content")) for one in results) if results else None


def _text(content: object) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


# OpenAI's chat


def chat_call(call: Call) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def chat_deltas(call: Call) -> list[Json]:
    head = {**chat_call(call), "function": {"name": call.name, "arguments": ""}}
    rest = [{"function": {"arguments": piece}} for piece in call.pieces()]
    return [{"tool_calls": [{"index": 0, **delta}]} for delta in (head, *rest)]


# Anthropic's messages


def message_block(call: Call) -> Json:
    arguments = json.loads(call.arguments)
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def message_events(call: Call) -> list[Json]:
    start = {**message_block(call), "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in call.pieces()]
    return [
        {"type": "content_block_start", "index": 0, "content_block": start},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
    ]


# OpenAI's responses


def response_item(call: Call, status: str) -> Json:
    head = {"type": "function_call", "id": f"fc_{call.id}", "call_id": call.id, "status": status}
    arguments = "" if status == "in_progress" else call.arguments
    return {**head, "name": call.name, "arguments": arguments}
