# SPDX-License-Identifier: Apache-2.0
"""The `/v1/` handlers: auth, route, ensure, proxy, in that order and nothing else.

The key is checked before a byte of the body is read, the body before anything is started.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.compat import Header
from sanic.http import Http

from sparkd.adapters.journal import Event, fields
from sparkd.adapters.upstream import Answer
from sparkd.core import auth, routing
from sparkd.core.errors import BodyTooLarge, NotFound, RequestError, SparkdError, UpstreamLost
from sparkd.core.model import ModelSpec
from sparkd.proxy import Outgoing, request_headers, response_headers
from sparkd.web.context import Context
from sparkd.web.render import Shape, error_event

log = logging.getLogger(__name__)

_BODY_STALL_S = 60.0
"""A client that sends nothing of its body for this long is gone."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def add_routes(app: Sanic[Any, Any]) -> None:
    app.add_route(list_models, "/v1/models", methods=["GET"])
    app.add_route(show_model, "/v1/models/<model_id:path>", methods=["GET"])
    app.add_route(infer, "/v1/<rest:path>", methods=["POST"], stream=True)


async def list_models(request: Request) -> HTTPResponse:
    """Every configured model, in OpenAI's list. Starts nothing and counts as no use."""
    context = _admitted(request)
    data = [_listed(spec) for spec in context.config.models.values()]
    return _json({"object": "list", "data": data})


async def show_model(request: Request, model_id: str) -> HTTPResponse:
    context = _admitted(request)
    spec = context.config.models.get(model_id)
    if spec is None:
        raise NotFound(
            f"there is no model {model_id[:200]!r}",
            hint="GET /v1/models lists the models",
            code="model_not_found",
            param="model",
        )
    return _json(_listed(spec))


async def infer(request: Request, rest: str) -> None:
    """One inference request, from the key to the last byte of the answer."""
    context: Context = request.app.ctx.sparkd
    started_s = time.monotonic()
    request_id = _request_id(request)
    outcome = _Outcome(request_id)
    with context.open_requests.one():
        try:
            _admitted(request)
            await _infer(context, request, outcome)
        except SparkdError as error:
            outcome.failed(error)
            raise
        except asyncio.CancelledError:
            outcome.reason = "client_gone"
            raise
        finally:
            outcome.log(time.monotonic() - started_s)


class _Outcome:
    """What the journal is told about a request: never what was asked or answered."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.operation = "-"
        self.model_id = "-"
        self.status = 0
        self.reason: str | None = None

    def failed(self, error: SparkdError) -> None:
        self.reason = error.code
        self.status = self.status or error.http_status

    def log(self, took_s: float) -> None:
        log.info(
            "%s for model %s: %s in %.0f ms",
            self.operation,
            self.model_id,
            self.reason or self.status,
            took_s * 1000,
            extra=fields(
                Event.REQUEST,
                model=self.model_id,
                request_id=self.request_id,
                status=self.status,
                reason=self.reason,
                duration_ms=round(took_s * 1000),
            ),
        )


async def _infer(context: Context, request: Request, outcome: _Outcome) -> None:
    config = context.config
    route = routing.route(request.path)
    outcome.operation = route.operation
    raw = await _read_body(request, config.settings.body_limit_bytes)
    body = routing.parse_body(raw)
    spec = routing.find(config, routing.model_of(route, body), route.dialect)
    outcome.model_id = spec.model_id
    outgoing = Outgoing(
        method="POST",
        path=route.upstream_path,
        headers=request_headers(request.headers, outcome.request_id),
        body=routing.upstream_body(raw, body, spec.model_id),
    )
    async with context.proxy.answer(config, spec, outgoing) as answer:
        outcome.status = answer.status
        await _relay(request, answer, spec, outcome)


async def _relay(request: Request, answer: Answer, spec: ModelSpec, outcome: _Outcome) -> None:
    """Pass the answer on as it comes; an answer that breaks off ends the client's with an error."""
    headers = Header(response_headers(answer.headers))
    headers["x-request-id"] = outcome.request_id
    headers["x-sparkd-model"] = spec.model_id
    response = await request.respond(
        status=answer.status, headers=headers, content_type=answer.content_type or None
    )
    try:
        async for chunk in answer.chunks():
            await response.send(chunk)
    except UpstreamLost as error:
        outcome.failed(error)
        if not answer.content_type.startswith("text/event-stream"):
            # Only a broken connection tells a client that a body of known kind is not whole.
            _cut(request)
            return
        await response.send(error_event(error, Shape.OPENAI))
    await response.eof()


async def _read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge, or RequestError when the client stalls."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(int(announced), limit_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        while True:
            async with asyncio.timeout(_BODY_STALL_S):
                part = await _read_part(request)
            if not part:
                return b"".join(parts)
            size += len(part)
            if size > limit_bytes:
                raise _too_large(size, limit_bytes)
            parts.append(part)
    except TimeoutError:
        raise RequestError(
            f"the body stopped after {size} bytes for {_BODY_STALL_S:g} s", code="body_stalled"
        ) from None


async def _read_part(request: Request) -> bytes | None:
    stream: Http | None = request.stream  # type: ignore[assignment]  # HTTP/1.1 is all we serve
    return await stream.read() if stream is not None else None


def _cut(request: Request) -> None:
    """Break the connection, as an answer that is not whole must end."""
    transport: asyncio.Transport = request.transport  # type: ignore[assignment]
    transport.abort()


def _too_large(size: int, limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has {size} bytes or more, the limit is {limit_bytes}",
        hint="send less, or raise body_limit in /etc/sparkd/sparkd.yaml",
    )


def _admitted(request: Request) -> Context:
    """The context, for a request with a right key. Raises Unauthorized or Misconfigured."""
    context: Context = request.app.ctx.sparkd
    context.require_usable()
    auth.check(
        context.keys, request.headers.get("authorization"), request.headers.get("x-api-key")
    )
    return context


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _listed(spec: ModelSpec) -> dict[str, object]:
    return {
        "id": spec.model_id,
        "object": "model",
        "created": 0,
        "owned_by": "sparkd",
        "max_model_len": spec.max_model_len,
        "dialects": list(spec.dialects),
    }


def _json(body: object) -> HTTPResponse:
    return HTTPResponse(json.dumps(body), content_type="application/json")
