# SPDX-License-Identifier: Apache-2.0
"""OpenAI's library for Python, as its users call it."""

from __future__ import annotations

from typing import Any

from conversation import TOOL, TOOL_SCHEMA, add, serve
from openai import OpenAI

TOOLS = [{"type": "function", "function": {"name": TOOL, "parameters": TOOL_SCHEMA}}]


def client(url: str, key: str, retries: int = 0, timeout: float = 60) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries, timeout=timeout)


def said(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}] if isinstance(text, str) else text


def chat(model: str, text: Any, **connection: Any) -> dict[str, Any]:
    answer = client(**connection).chat.completions.create(model=model, messages=said(text))
    return {"text": answer.choices[0].message.content, "finish": answer.choices[0].finish_reason}


def stream(model: str, text: str, leave_after: int = 0, **extra: Any) -> dict[str, Any]:
    fake = extra.pop("fake", {})
    pieces = []
    with client(**extra).chat.completions.create(
        model=model, messages=said(text), stream=True, extra_body={"fake": fake}
    ) as chunks:
        for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                pieces.append(chunk.choices[0].delta.content)
            if leave_after and len(pieces) == leave_after:
                break
    return {"pieces": pieces}


def tool(model: str, text: str, **connection: Any) -> dict[str, Any]:
    ask = client(**connection).chat.completions
    messages = said(text)
    first = ask.create(model=model, messages=messages, tools=TOOLS).choices[0]
    (call,) = first.message.tool_calls
    messages.append(first.message)
    result = add(call.function.arguments)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    last = ask.create(model=model, messages=messages, tools=TOOLS).choices[0]
    return {
        "finish": first.finish_reason,
        "called": call.function.name,
        "text": last.message.content,
    }


def tool_stream(model: str, text: str, **connection: Any) -> dict[str, Any]:
    with client(**connection).chat.completions.stream(
        model=model, messages=said(text), tools=TOOLS
    ) as events:
        (call,) = events.get_final_completion().choices[0].message.tool_calls
    return {"called": call.function.name, "result": add(call.function.arguments)}


def embed(model: str, texts: list[str], **connection: Any) -> dict[str, Any]:
    answer = client(**connection).embeddings.create(model=model, input=texts)
    return {"sizes": [len(one.embedding) for one in answer.data]}


def respond(model: str, text: str, **connection: Any) -> dict[str, Any]:
    """The newer API of the same library, streamed."""
    with client(**connection).responses.stream(model=model, input=text) as events:
        kinds = [event.type for event in events]
        return {"text": events.get_final_response().output_text, "kinds": kinds}


def models(**connection: Any) -> dict[str, Any]:
    return {"ids": [model.id for model in client(**connection).models.list()]}


serve(
    {
        "chat": chat,
        "stream": stream,
        "tool": tool,
        "tool_stream": tool_stream,
        "embed": embed,
        "respond": respond,
        "models": models,
    }
)
