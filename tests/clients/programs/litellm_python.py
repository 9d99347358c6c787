# SPDX-License-Identifier: Apache-2.0
"""LiteLLM as a client of an OpenAI-compatible server, as its documentation has it."""

from __future__ import annotations

from typing import Any

import litellm
from conversation import TOOL, TOOL_SCHEMA, add, serve

TOOLS = [{"type": "function", "function": {"name": TOOL, "parameters": TOOL_SCHEMA}}]

# On this machine's network there is nothing but the gateway.
litellm.telemetry = False
litellm.suppress_debug_info = True


def common(model: str, url: str, key: str, retries: int = 0) -> dict[str, Any]:
    return {
        "model": f"openai/{model}",
        "api_base": f"{url}/v1",
        "api_key": key,
        "max_retries": retries,
        "timeout": 60,
    }


def said(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}] if isinstance(text, str) else text


def chat(model: str, text: Any, **connection: Any) -> dict[str, Any]:
    answer = litellm.completion(messages=said(text), **common(model, **connection))
    return {"text": answer.choices[0].message.content, "finish": answer.choices[0].finish_reason}


def stream(model: str, text: str, leave_after: int = 0, **extra: Any) -> dict[str, Any]:
    fake = extra.pop("fake", {})
    pieces = []
    chunks = litellm.completion(
        messages=said(text), stream=True, extra_body={"fake": fake}, **common(model, **extra)
    )
    for chunk in chunks:
        if chunk.choices[0].delta.content:
            pieces.append(chunk.choices[0].delta.content)
        if leave_after and len(pieces) == leave_after:
            chunks.completion_stream.close()
            break
    return {"pieces": pieces}


def tool(model: str, text: str, **connection: Any) -> dict[str, Any]:
    to = common(model, **connection)
    messages = said(text)
    first = litellm.completion(messages=messages, tools=TOOLS, **to).choices[0]
    (call,) = first.message.tool_calls
    messages.append(first.message.model_dump())
    result = add(call.function.arguments)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    last = litellm.completion(messages=messages, tools=TOOLS, **to).choices[0]
    return {
        "finish": first.finish_reason,
        "called": call.function.name,
        "text": last.message.content,
    }


def tool_stream(model: str, text: str, **connection: Any) -> dict[str, Any]:
    messages = said(text)
    chunks = litellm.completion(
        messages=messages, tools=TOOLS, stream=True, **common(model, **connection)
    )
    whole = litellm.stream_chunk_builder(list(chunks), messages=messages)
    (call,) = whole.choices[0].message.tool_calls
    return {"called": call.function.name, "result": add(call.function.arguments)}


def embed(model: str, texts: list[str], **connection: Any) -> dict[str, Any]:
    answer = litellm.embedding(input=texts, **common(model, **connection))
    return {"sizes": [len(one["embedding"]) for one in answer.data]}


serve({"chat": chat, "stream": stream, "tool": tool, "tool_stream": tool_stream, "embed": embed})
