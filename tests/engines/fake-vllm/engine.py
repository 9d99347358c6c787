# SPDX-License-Identifier: Apache-2.0
"""The pretended engine: its endpoints, the pace of its tokens, its accidents, and its counters.

Owns what happens to one request from its body to the last byte of its reply. It starts no server
and reads no settings but those handed to it.
"""

import asyncio
import base64
import email
import email.policy
import itertools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Never

from answers import (
    CREATED,
    DIALECTS,
    Answer,
    BadRequestError,
    Dialect,
    Json,
    Words,
    compact,
    embeddings,
    error_body,
    prompt_size,
    question,
    words,
)
from behaviour import Behaviour, BehaviourError, Switches, overridden
from hostile import KINDS as HOSTILE
from http1 import Connection, Request
from sleeping import Middleware, Sleep
from toolcalls import call_of

# Without a pace all tokens are ready at once: now and then the other connections get their turn.
TOKENS_IN_A_ROW = 32
TRANSCRIBED = ("/v1/audio/transcriptions", "/v1/audio/translations")
RELEASE = "/fake/release/"
GARBAGE = {
    "status_line": b"NONSENSE/9 what\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nno colon here\x01\r\ncontent-length: 2\r\n\r\n{}",
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}",
    "chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n",
}
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="{model}"}} {running}.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="{model}"}} 0.0
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0",model_name="{model}"}} {tokens}.0
# HELP vllm:iteration_tokens_total Histogram of number of tokens per engine_step.
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{{engine="0",le="+Inf",model_name="{model}"}} {tokens}.0
vllm:iteration_tokens_total_count{{engine="0",model_name="{model}"}} {tokens}.0
vllm:iteration_tokens_total_sum{{engine="0",model_name="{model}"}} {tokens}.0
"""


def exit_now(code: int, last_words: str) -> Never:
    """The end as a crash brings it: no cleaning up, nothing said to clients."""
    print(last_words, file=sys.stderr, flush=True)
    os._exit(code)


def form(request: Request) -> dict[str, Any]:
    """The fields of a form: texts, and bytes for `file`, which must be there."""
    kinds = [value for name, value in request.headers if name.lower() == "content-type"]
    head = f"content-type: {''.join(kinds)}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.body, policy=email.policy.HTTP)
    fields: dict[str, Any] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        fields[str(name)] = content if name == "file" else content.decode()
    if not fields.get("file"):
        raise BadRequestError("there is no file")
    return fields


class BrokenOffError(Exception):
    """The reply ends here, in the middle, and the connection with it."""


class Engine:
    """Everything that answers; one for each process."""

    def __init__(
        self,
        *,
        models: tuple[str, ...],
        max_model_len: int,
        switches: Switches,
        middleware: tuple[str, ...] = (),
    ) -> None:
        self.loaded = False
        self._sleep = Sleep()
        self._middleware = [Middleware(path, self._sleep) for path in middleware]
        self._models = models
        self._max_model_len = max_model_len
        self._switches = switches
        self._numbers = itertools.count(1)
        self._started_at = time.time()
        self._released: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._reset()

    def _reset(self) -> None:
        self._requests = 0
        self._running = 0
        self._completed = 0
        self._cancelled = 0
        self._tokens = 0
        self._last: Request | None = None

    async def handle(self, request: Request, reply: Connection) -> None:
        if request.path.startswith("/fake/"):
            self._debug(request, reply)
        elif not self.loaded:
            reply.send(503, b"")
        elif await self._answered_before(request, reply):
            pass
        elif (hostile := self._hostile(request)) is not None:
            await hostile(reply)
        elif request.method == "GET":
            self._look(request.path, reply)
        elif request.method == "POST":
            await self._infer(request, reply)
        else:
            reply.send(405, b'{"detail":"Method Not Allowed"}')

    def _hostile(self, request: Request) -> Callable[[Connection], Awaitable[None]] | None:
        behaviour = self._switches.current()
        there = request.path.startswith(behaviour.hostile_at)
        return HOSTILE.get(behaviour.hostile) if there else None

    async def _answered_before(self, request: Request, reply: Connection) -> bool:
        self._sleep.accident = self._switches.current().nap
        for middleware in self._middleware:
            if await middleware.answers(request, reply):
                return True
        return False

    def _debug(self, request: Request, reply: Connection) -> None:
        if request.path == "/fake/state":
            reply.send(200, compact(self._state()))
        elif request.path == "/fake/reset":
            running = self._running
            self._reset()
            self._running = running
            reply.send(200, b"{}")
        elif request.path.startswith(RELEASE):
            self._released[request.path.removeprefix(RELEASE)].set()
            reply.send(200, b"{}")
        else:
            reply.send(404, b'{"detail":"Not Found"}')

    def _state(self) -> Json:
        last = self._last
        return {
            "pid": os.getpid(),
            "started_at": self._started_at,
            "loaded": self.loaded,
            "requests": self._requests,
            "running": self._running,
            "completed": self._completed,
            "cancelled": self._cancelled,
            "tokens": self._tokens,
            "sleep_level": self._sleep.level,
            "naps": self._sleep.naps,
            "last": last
            and {
                "method": last.method,
                "target": last.target,
                "headers": last.headers,
                "body": last.body.decode("utf-8", "replace"),
                "body_base64": base64.b64encode(last.body).decode(),
            },
        }

    def _look(self, path: str, reply: Connection) -> None:
        if path == "/health":
            reply.send(200, b"")
        elif path == "/v1/models":
            listed = [self._card(model) for model in self._models]
            reply.send(200, compact({"object": "list", "data": listed}))
        elif path == "/metrics":
            text = METRICS.format(model=self._models[0], running=self._running, tokens=self._tokens)
            reply.send(200, text.encode(), kind="text/plain; version=0.0.4; charset=utf-8")
        elif path == "/version":
            reply.send(200, b'{"version":"0.0.0+fake"}')
        else:
            reply.send(404, b'{"detail":"Not Found"}')

    def _card(self, model: str) -> Json:
        return {
            "id": model,
            "object": "model",
            "created": CREATED,
            "owned_by": "vllm",
            "root": f"/models/{model}",
            "parent": None,
            "max_model_len": self._max_model_len,
        }

    async def _infer(self, request: Request, reply: Connection) -> None:
        self._last = request
        self._requests += 1
        self._running += 1
        try:
            await self._dispatch(request, reply)
            self._completed += 1
        except (BadRequestError, BehaviourError) as wrong:
            reply.send(400, error_body(str(wrong), "BadRequestError", 400))
            self._completed += 1
        except Exception as wrong:
            # The real one looks at a whole body before it does anything with it.
            said = f"the body has a wrong value: {type(wrong).__name__}"
            reply.send(400, error_body(said, "BadRequestError", 400))
            self._completed += 1
        except asyncio.CancelledError:
            self._cancelled += 1
            raise
        finally:
            self._running -= 1

    async def _dispatch(self, request: Request, reply: Connection) -> None:
        body = self._body(request)
        behaviour = overridden(self._switches.current(), body.get("fake") or {})
        model = body.get("model", self._models[0])
        if self._sleep.level:
            reply.send(500, error_body("the engine sleeps", "InternalServerError", 500))
        elif behaviour.garbage:
            reply.raw(GARBAGE[behaviour.garbage])
            reply.hang_up()
        elif behaviour.status != 200:
            said = error_body("the engine was told to fail", "InternalServerError", 500)
            reply.send(behaviour.status, said, headers=behaviour.headers)
        elif model not in self._models:
            text = f"The model `{model}` does not exist."
            reply.send(404, error_body(text, "NotFoundError", 404, "model"))
        elif request.path in TRANSCRIBED:
            reply.send(200, compact({"text": f"heard {len(body['file'])} bytes"}))
        elif request.path in DIALECTS:
            await self._generate(request.path, body, behaviour, reply)
        else:
            self._compute(request.path, body, reply)

    def _body(self, request: Request) -> dict[str, Any]:
        if request.path in TRANSCRIBED:
            return form(request)
        try:
            body = json.loads(request.body)
        except ValueError as wrong:
            raise BadRequestError(f"JSON decode error: {wrong}") from None
        if not isinstance(body, dict):
            raise BadRequestError("the body is not a JSON object")
        return body

    def _compute(self, path: str, body: Json, reply: Connection) -> None:
        if path == "/v1/embeddings":
            result = embeddings(body, body.get("model", self._models[0]))
        elif path == "/v1/messages/count_tokens":
            result = {"input_tokens": prompt_size(path, body)}
        elif path == "/tokenize":
            text = body.get("prompt") or question("/v1/chat/completions", body)
            tokens = [sum(word.encode()) for word in text.split()]
            size = self._max_model_len
            result = {"count": len(tokens), "max_model_len": size, "tokens": tokens}
        else:
            reply.send(404, b'{"detail":"Not Found"}')
            return
        reply.send(200, compact(result))

    async def _generate(
        self, path: str, body: Json, behaviour: Behaviour, reply: Connection
    ) -> None:
        number = next(self._numbers)
        call = call_of(body, question(path, body), number)
        said = words(path, body, behaviour.tokens, fill=behaviour.fill)
        if self._sleep.forgot:
            said = replace(said, asked=("gibberish",))
        answer = Answer(
            id=f"chatcmpl-{number:016x}",
            model=body.get("model", self._models[0]),
            prompt_tokens=prompt_size(path, body),
            words=said if call is None else replace(said, count=0, finish="stop"),
            wants_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            call=call,
        )
        wanted = answer.prompt_tokens + answer.words.count
        if 0 < behaviour.context_tokens < wanted:
            raise BadRequestError(
                f"The context has {behaviour.context_tokens} tokens, {wanted} are wanted."
            )
        dialect = DIALECTS[path](answer)
        try:
            if body.get("stream"):
                await self._stream(dialect, answer.words, behaviour, reply)
            else:
                async for _ in self._paced(answer.words, behaviour):
                    pass
                reply.send(200, compact(dialect.body()), headers=behaviour.headers)
        except BrokenOffError:
            if not body.get("stream"):
                whole = compact(dialect.body())
                reply.send(200, whole, headers=behaviour.headers, sent_bytes=len(whole) // 2)
            reply.hang_up()

    async def _stream(
        self, dialect: Dialect, said: Words, behaviour: Behaviour, reply: Connection
    ) -> None:
        reply.start_stream(headers=behaviour.headers)
        reply.chunk(dialect.opening())
        async for word in self._paced(said, behaviour):
            reply.chunk(dialect.delta(word))
            await reply.drained()
        reply.chunk(dialect.closing())
        reply.end_stream()

    async def _paced(self, said: Words, behaviour: Behaviour) -> AsyncIterator[str]:
        """Each word when it is due; ends, stalls or dies early if the behaviour says so."""
        loop = asyncio.get_running_loop()
        pace_s = behaviour.pace_ms / 1000
        first_mono_s = loop.time() + behaviour.first_token_ms / 1000
        for number, word in enumerate(said):
            if pace_s or number == 0:
                wait_s = first_mono_s + number * pace_s - loop.time()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
            elif number % TOKENS_IN_A_ROW == 0:
                await asyncio.sleep(0)
            await self._accident(number, behaviour)
            self._tokens += 1
            yield word
        await self._accident(said.count, behaviour)

    async def _accident(self, number: int, behaviour: Behaviour) -> None:
        if number == 1 and behaviour.held_as:
            await self._released[behaviour.held_as].wait()
        if number == behaviour.crash_after_tokens:
            exit_now(behaviour.exit_code, behaviour.crash_log)
        if number == behaviour.stall_after_tokens:
            await asyncio.Event().wait()
        if number == behaviour.break_after_tokens:
            raise BrokenOffError
