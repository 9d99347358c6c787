# SPDX-License-Identifier: Apache-2.0
"""The shapes of questions and answers in each dialect that the fake engine speaks.

Owns JSON bodies and server-sent events: what a request asks, the words of its answer, and how
these words look as one body or as a stream. It knows no sockets and no time.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from toolcalls import (
    Call,
    chat_call,
    chat_deltas,
    message_block,
    message_events,
    response_item,
    result_in,
)

Json = dict[str, Any]
EMBEDDING_SIZE = 8
CREATED = 1_700_000_000


class BadRequestError(ValueError):
    """A body that vLLM would refuse too."""


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: Json, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + compact(value) + b"\n\n"


def error_body(message: str, kind: str, code: int, param: str | None = None) -> bytes:
    return compact({"error": {"message": message, "type": kind, "param": param, "code": code}})


def text_of(content: object) -> str:
    """The text of a message: a string, or a list of parts of which some carry text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (p if isinstance(p, str) else p.get("text", "") for p in content if p)
        return " ".join(part for part in parts if isinstance(part, str))
    return ""


def last_words(messages: object) -> str:
    """What the user said last, or a tool after him."""
    if not isinstance(messages, list):
        raise BadRequestError("messages is not a list")
    if not messages:
        raise BadRequestError("messages is empty")
    for message in reversed(messages):
        if not isinstance(message, dict):
            continue
        result = result_in(message)
        if result is not None:
            return result
        if message.get("role") == "user":
            return text_of(message.get("content"))
    return ""


def question(path: str, body: Json) -> str:
    if path == "/v1/completions":
        return text_of(body.get("prompt"))
    if path == "/v1/responses":
        asked = body.get("input")
        return asked if isinstance(asked, str) else last_words(asked)
    return last_words(body.get("messages"))


def prompt_size(path: str, body: Json) -> int:
    """Tokens of the prompt: its words, and one more for each message."""
    if path == "/v1/completions":
        return len(text_of(body.get("prompt")).split())
    listed = body.get("input") if path == "/v1/responses" else body.get("messages")
    if isinstance(listed, str):
        return len(listed.split())
    messages = [m for m in listed or [] if isinstance(m, dict)]
    system = len(text_of(body.get("system")).split())
    return system + sum(len(text_of(m.get("content")).split()) + 1 for m in messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The tokens of one answer, made while they are asked for."""

    asked: tuple[str, ...]
    count: int
    finish: str

    def __iter__(self) -> Iterator[str]:
        for number in range(self.count):
            word = self.asked[number] if number < len(self.asked) else f"w{number}"
            yield word if number == 0 else f" {word}"

    def text(self) -> str:
        return "".join(self)


def words(path: str, body: Json, wanted: int, *, fill: bool) -> Words:
    """`echo:` and the question's words; cut or filled up to an exact number if one is asked for.

    Anthropic's dialect must name `max_tokens` in every request and the responses dialect only
    caps its output: there the number is a limit and fills nothing up.
    """
    asked = ("echo:", *question(path, body).split())
    if wanted > 0:
        return Words(asked=asked, count=wanted, finish="stop")
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    fills_up = fill and path in ("/v1/chat/completions", "/v1/completions")
    if path == "/v1/responses":
        limit = body.get("max_output_tokens")
    if limit is None:
        return Words(asked=asked, count=len(asked), finish="stop")
    if not isinstance(limit, int) or limit < 1:
        raise BadRequestError(f"max_tokens must be at least 1, got {limit}.")
    if fills_up or limit < len(asked):
        return Words(asked=asked, count=limit, finish="length")
    return Words(asked=asked, count=len(asked), finish="stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All that an answer says, before it takes the shape of a dialect."""

    id: str
    model: str
    prompt_tokens: int
    words: Words
    wants_usage: bool
    call: Call | None = None
    """A call of a tool, instead of words."""

    def usage(self, produced: int) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + produced,
            "completion_tokens": produced,
        }


class Dialect(Protocol):
    """One answer as a body, or as opening, a delta for each token, and closing."""

    def __init__(self, answer: Answer) -> None: ...

    def body(self) -> Json: ...

    def opening(self) -> bytes: ...

    def delta(self, word: str) -> bytes: ...

    def closing(self) -> bytes: ...


class Chat:
    KIND = "chat.completion"

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        chunk = compact(self._chunk({"content": "\0"}, None))
        self._before, self._after = chunk.split(b'"\\u0000"')

    def _head(self, kind: str) -> Json:
        created, model = CREATED, self._answer.model
        return {"id": self._answer.id, "object": kind, "created": created, "model": model}

    def _chunk(self, delta: Json, finish: str | None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head(f"{self.KIND}.chunk"), "choices": [choice]}

    def body(self) -> Json:
        said, call = self._answer.words, self._answer.call
        message: Json = {"role": "assistant", "content": said.text(), "tool_calls": []}
        if call is not None:
            message |= {"content": None, "tool_calls": [chat_call(call)]}
        finish = self._finish()
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        usage = self._answer.usage(said.count)
        return {**self._head(self.KIND), "choices": [choice], "usage": usage}

    def _finish(self) -> str:
        return "tool_calls" if self._answer.call else self._answer.words.finish

    def opening(self) -> bytes:
        return event(self._chunk({"role": "assistant", "content": ""}, None))

    def delta(self, word: str) -> bytes:
        return b"data: " + self._before + compact(word) + self._after + b"\n\n"

    def closing(self) -> bytes:
        said, call = self._answer.words, self._answer.call
        deltas = chat_deltas(call) if call is not None else []
        end = b"".join(event(self._chunk(delta, None)) for delta in deltas)
        end += event(self._chunk({}, self._finish()))
        if self._answer.wants_usage:
            usage = self._answer.usage(said.count)
            end += event({**self._head(f"{self.KIND}.chunk"), "choices": [], "usage": usage})
        return end + b"data: [DONE]\n\n"


class Completion(Chat):
    KIND = "text_completion"

    def _chunk(self, delta: Json, finish: str | None) -> Json:
        text = delta.get("content", "")
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {**self._head(self.KIND), "choices": [choice]}

    def body(self) -> Json:
        said = self._answer.words
        choice = {
            "index": 0,
            "text": said.text(),
            "logprobs": None,
            "finish_reason": said.finish,
            "stop_reason": None,
        }
        usage = self._answer.usage(said.count)
        return {**self._head(self.KIND), "choices": [choice], "usage": usage}

    def opening(self) -> bytes:
        return b""


class Message:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def _message(self, content: list[Json], stop_reason: str | None, produced: int) -> Json:
        return {
            "id": self._answer.id.replace("chatcmpl-", "msg_"),
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._answer.model,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": {"input_tokens": self._answer.prompt_tokens, "output_tokens": produced},
        }

    def _stop_reason(self) -> str:
        if self._answer.call is not None:
            return "tool_use"
        return "max_tokens" if self._answer.words.finish == "length" else "end_turn"

    def body(self) -> Json:
        said, call = self._answer.words, self._answer.call
        block = message_block(call) if call else {"type": "text", "text": said.text()}
        return self._message([block], self._stop_reason(), said.count)

    def opening(self) -> bytes:
        call = self._answer.call
        block = {"type": "text", "text": ""}
        start = {"type": "content_block_start", "index": 0, "content_block": block}
        return b"".join(
            event(value, str(value["type"]))
            for value in (
                {"type": "message_start", "message": self._message([], None, 0)},
                *(message_events(call) if call is not None else [start]),
            )
        )

    def delta(self, word: str) -> bytes:
        delta = {"type": "text_delta", "text": word}
        value = {"type": "content_block_delta", "index": 0, "delta": delta}
        return event(value, "content_block_delta")

    def closing(self) -> bytes:
        delta = {"stop_reason": self._stop_reason(), "stop_sequence": None}
        usage = {"output_tokens": self._answer.words.count}
        return b"".join(
            event(value, str(value["type"]))
            for value in (
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": delta, "usage": usage},
                {"type": "message_stop"},
            )
        )


class Response:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._sent = 0
        self._item_id = answer.id.replace("chatcmpl-", "msg_")

    def _response(self, status: str) -> Json:
        done = status != "in_progress"
        said = self._answer.words
        return {
            "id": self._answer.id.replace("chatcmpl-", "resp_"),
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "model": self._answer.model,
            "output": [self._item(status)] if done else [],
            "usage": {
                "input_tokens": self._answer.prompt_tokens,
                "output_tokens": said.count,
                "total_tokens": self._answer.prompt_tokens + said.count,
            }
            if done
            else None,
        }

    def _part(self, text: str) -> Json:
        return {"type": "output_text", "text": text, "annotations": []}

    def _item(self, status: str) -> Json:
        parts = [self._part(self._answer.words.text())] if status != "in_progress" else []
        if self._answer.call is not None:
            return response_item(self._answer.call, status)
        item = {"id": self._item_id, "type": "message", "role": "assistant"}
        return {**item, "status": status, "content": parts}

    def _event(self, kind: str, **content: object) -> bytes:
        value = {"type": kind, "sequence_number": self._sent, **content}
        self._sent += 1
        return event(value, kind)

    def _place(self) -> Json:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _final_status(self) -> str:
        return "incomplete" if self._answer.words.finish == "length" else "completed"

    def body(self) -> Json:
        return self._response(self._final_status())

    def opening(self) -> bytes:
        item = self._item("in_progress")
        begun = (
            self._event("response.created", response=self._response("in_progress"))
            + self._event("response.in_progress", response=self._response("in_progress"))
            + self._event("response.output_item.added", output_index=0, item=item)
        )
        if self._answer.call is not None:
            return begun
        part = self._part("")
        return begun + self._event("response.content_part.added", **self._place(), part=part)

    def delta(self, word: str) -> bytes:
        return self._event("response.output_text.delta", **self._place(), delta=word)

    def closing(self) -> bytes:
        status = self._final_status()
        return (
            (self._closed_text() if self._answer.call is None else self._arguments())
            + self._event("response.output_item.done", output_index=0, item=self._item(status))
            + self._event(f"response.{status}", response=self._response(status))
        )

    def _closed_text(self) -> bytes:
        text = self._answer.words.text()
        part = self._part(text)
        return self._event("response.output_text.done", **self._place(), text=text) + self._event(
            "response.content_part.done", **self._place(), part=part
        )

    def _arguments(self) -> bytes:
        call = self._answer.call
        assert call is not None
        place = {"item_id": response_item(call, "completed")["id"], "output_index": 0}
        kind = "response.function_call_arguments"
        deltas = (self._event(f"{kind}.delta", **place, delta=piece) for piece in call.pieces())
        done = self._event(f"{kind}.done", **place, name=call.name, arguments=call.arguments)
        return b"".join(deltas) + done


DIALECTS: dict[str, type[Dialect]] = {
    "/v1/chat/completions": Chat,
    "/v1/completions": Completion,
    "/v1/messages": Message,
    "/v1/responses": Response,
}


def embedding(text: str, size: int) -> list[float]:
    """The same small vector for the same text, everywhere and always."""
    digest = hashlib.shake_256(text.encode()).digest(4 * size)
    return [number / 2**31 - 1.0 for number in struct.unpack(f"<{size}I", digest)]


def embeddings(body: Json, model: str) -> Json:
    asked = body.get("input")
    texts = asked if isinstance(asked, list) and not _is_token_list(asked) else [asked]
    size = body.get("dimensions") or EMBEDDING_SIZE
    data = []
    for index, text in enumerate(texts):
        vector: object = embedding(text if isinstance(text, str) else compact(text).decode(), size)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()  # type: ignore[misc]
        data.append({"index": index, "object": "embedding", "embedding": vector})
    used = sum(len(text.split()) if isinstance(text, str) else len(text) for text in texts)
    usage = {"prompt_tokens": used, "total_tokens": used, "completion_tokens": 0}
    head = {"id": "embd-fake", "object": "list", "created": CREATED, "model": model}
    return {**head, "data": data, "usage": usage}


def _is_token_list(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], int)
