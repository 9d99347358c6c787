# SPDX-License-Identifier: Apache-2.0
"""The tools in a request: `strip_tools`, `force_tools` and `strict_tool_wording`.

Owns the fields of a request that offer tools, never the calls and results of a conversation.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from sparkd.core.model import Dialect, ModelSpec
from sparkd.core.rewriting.texts import SYSTEM_ROLES, differ, is_message, is_text, parts_of

TOOL_FIELDS = ("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls")

INSTRUCTION = (
    "Two rules hold for tool calls:\n"
    "1. An argument that is an array or an object is written as plain JSON, never as a string in "
    "quotes.\n"
    "2. A greeting is answered in words, without calling a tool."
)
PLAIN_JSON = "Plain JSON, not a string in quotes."
PLAIN_JSON_SUFFIX = f" ({PLAIN_JSON})"
QUESTION_TOOL = "question"
QUESTION_SUFFIX = " Only for asking what must be known to go on, never to answer a greeting."

_DEPTH_MAX = 64
"""No tool has parameters nested as deep; what lies deeper stays as it is."""


def strip(_spec: ModelSpec, _dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """Without any offer of tools, for models that cannot call them."""
    if not any(field in body for field in TOOL_FIELDS):
        return body
    return {key: value for key, value in body.items() if key not in TOOL_FIELDS}


def force(_spec: ModelSpec, dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """A tool must be called, for models that otherwise describe the call in words.

    Not once a tool has answered, or the model could never end.
    """
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not isinstance(tools, list) or not tools or _has_result(body):
        return body
    if dialect is Dialect.MESSAGES:
        given = choice if isinstance(choice, dict) else {}
        if choice and given.get("type") != "auto":
            return body
        return {**body, "tool_choice": {**given, "type": "any"}}
    if choice and choice != "auto":
        return body
    return {**body, "tool_choice": "required"}


def word_strictly(_spec: ModelSpec, _dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """Says with every array and object, and once for all, that it is to be written as JSON."""
    tools = body.get("tools")
    if isinstance(tools, list):
        worded = [_worded_tool(tool) for tool in tools]
        body = {**body, "tools": worded} if differ(worded, tools) else body
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return body
    if not all(map(is_message, messages)) or any(map(_says_instruction, messages)):
        return body
    # Behind what the client has the model told, in front of the conversation.
    systems = list(takewhile(lambda message: message["role"] in SYSTEM_ROLES, messages))
    instruction = {"role": "system", "content": INSTRUCTION}
    return {**body, "messages": [*systems, instruction, *messages[len(systems) :]]}


def _has_result(body: dict[str, Any]) -> bool:
    """Whether a tool has answered already, in any of the dialects."""
    for field in ("messages", "input"):
        messages = body.get(field)
        for message in messages if isinstance(messages, list) else []:
            if not isinstance(message, dict):
                continue
            if message.get("role") == "tool" or message.get("type") == "function_call_output":
                return True
            content = message.get("content")
            parts = content if isinstance(content, list) else []
            if any(isinstance(one, dict) and one.get("type") == "tool_result" for one in parts):
                return True
    return False


def _says_instruction(message: dict[str, Any]) -> bool:
    parts = parts_of(message.get("content"))
    return any(is_text(part) and INSTRUCTION in part["text"] for part in parts)


def _worded_tool(tool: object) -> object:
    if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
        return tool
    function = tool["function"]
    worded = function
    if function.get("name") == QUESTION_TOOL:
        worded = _described(worded, QUESTION_SUFFIX, QUESTION_SUFFIX.strip())
    parameters = _worded_schema(function.get("parameters"), 0)
    if parameters is not function.get("parameters"):
        worded = {**worded, "parameters": parameters}
    return tool if worded is function else {**tool, "function": worded}


def _worded_schema(schema: object, depth: int) -> object:
    if not isinstance(schema, dict) or depth > _DEPTH_MAX:
        return schema
    worded = schema
    kind = schema.get("type")
    if any(one in ("array", "object") for one in (kind if isinstance(kind, list) else [kind])):
        worded = _described(worded, PLAIN_JSON_SUFFIX, PLAIN_JSON)
    properties = schema.get("properties")
    if isinstance(properties, dict):
        inner = {name: _worded_schema(one, depth + 1) for name, one in properties.items()}
        if differ(list(inner.values()), list(properties.values())):
            worded = {**worded, "properties": inner}
    items = _worded_schema(schema.get("items"), depth + 1)
    return worded if items is schema.get("items") else {**worded, "items": items}


def _described(thing: dict[str, Any], suffix: str, alone: str) -> dict[str, Any]:
    """With the suffix behind its description, or a description of its own; once."""
    description = thing.get("description")
    if not description:
        return {**thing, "description": alone}
    if not isinstance(description, str) or alone in description:
        return thing
    return {**thing, "description": description + suffix}
