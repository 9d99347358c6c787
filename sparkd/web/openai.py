# SPDX-License-Identifier: Apache-2.0
"""The `/v1/` handlers: auth, route, ensure, proxy, in that order and nothing else.

The key is checked before a byte of the body is read, the body before anything is started.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import unquote

from sanic import HTTPResponse, Request, Sanic

from sparkd.core import auth, routing
from sparkd.core.auth import Access
from sparkd.core.cards import card
from sparkd.core.errors import SparkdError
from sparkd.core.forms import Form
from sparkd.core.model import Config, ModelSpec, Status
from sparkd.core.rewrite import rewrite
from sparkd.proxy import Outgoing, request_headers
from sparkd.web.admission import admitted, identified, key_of
from sparkd.web.context import READ, Context
from sparkd.web.exchange import Exchange
from sparkd.web.requestid import request_id
from sparkd.web.unexpected import unexpected


def add_routes(app: Sanic[Any, Any]) -> None:
    access = Access.INFERENCE
    app.add_route(list_models, "/v1/models", methods=READ, ctx_access=access)
    app.add_route(show_model, "/v1/models/<model_id:path>", methods=READ, ctx_access=access)
    app.add_route(infer, "/v1/<rest:path>", methods=["POST"], stream=True, ctx_access=access)


async def list_models(request: Request) -> HTTPResponse:
    """Every model that can be asked, in OpenAI's list. Starts nothing and counts as no use."""
    context, key = admitted(request), key_of(request)
    models = (spec for spec in context.config.models.values() if key.may_use(spec.model_id))
    state = await context.readings.states()
    data = [
        card(spec, state.get(spec.model_id))
        for spec in models
        if spec.status is not Status.DISABLED
    ]
    return _json({"object": "list", "data": data})


async def show_model(request: Request, model_id: str) -> HTTPResponse:
    """One model, as the list has it."""
    context = admitted(request)
    spec = routing.lookup(context.config, unquote(model_id))
    auth.require_model(key_of(request), spec.model_id)
    routing.check_enabled(spec)
    state = await context.readings.states()
    return _json(card(spec, state.get(spec.model_id)))


async def infer(request: Request, rest: str) -> None:
    """One inference request, from the key to the last byte of the answer."""
    context: Context = request.app.ctx.sparkd
    started_s = time.monotonic()
    exchange = Exchange(request, request_id(request), context.traffic, context.bodies)
    with context.open_requests:
        try:
            identified(request)
            key = key_of(request)
            exchange.key_name = key.name
            exchange.meter = meter = context.meters.of(key)
            meter.enter(key, started_s)
            try:
                await _infer(context, request, exchange)
            finally:
                meter.leave()
        except SparkdError as error:
            if not await exchange.fail(error):
                raise
        except asyncio.CancelledError:
            if not exchange.complete:
                exchange.reason = "client_gone"
            raise
        except Exception as exception:
            bug = unexpected(exception)
            if not await exchange.fail(bug):
                raise bug from None
        finally:
            exchange.ended(started_s, context.config.settings.log_requests)


async def _infer(context: Context, request: Request, exchange: Exchange) -> None:
    route = routing.route(request.path)
    exchange.operation = route.name
    raw = await exchange.read_body(context.config.settings)
    # A reload may have come during the body: everything after it is of one configuration.
    config = context.config
    spec, streams, outgoing = _prepared(config, request, exchange, route, raw)
    size = len(outgoing.body)
    exchange.prepared(size)
    told = (exchange.granted, exchange.notice if streams else None)
    answering = context.proxy.answer(config, spec, outgoing, *told)
    # This frame lives as long as the answer, and the body must not.
    del raw, outgoing
    with context.traffic.flight(spec.model_id, size):
        async with await answering as answer:
            exchange.sent()
            await exchange.relay(answer)
            await context.sampler.sample(spec.model_id)


def _prepared(
    config: Config, request: Request, exchange: Exchange, route: routing.Route, raw: bytes
) -> tuple[ModelSpec, bool, Outgoing]:
    """The model that is asked, whether the client wants a stream, and the engine's request."""
    operation = route.operation
    headers = request_headers(request.headers, exchange.request_id)
    if operation.form:
        form = Form(raw, headers.get("content-type", ""))
        spec = _asked(config, request, exchange, route, {"model": form.text("model")})
        streams = form.text("stream") == "true"
        out = form.with_text("model", spec.model_id)
    else:
        body = routing.parse_body(raw)
        spec = _asked(config, request, exchange, route, body)
        streams = body.get("stream") is True
        rewritten = rewrite(spec, operation.dialect, body) if operation.rewritten else body
        out = routing.upstream_body(raw, body, spec.model_id, rewritten)
        headers = _json_headers(headers)
    outgoing = Outgoing(method="POST", path=operation.upstream_path, headers=headers, body=out)
    return spec, streams, outgoing


def _asked(
    config: Config,
    request: Request,
    exchange: Exchange,
    route: routing.Route,
    body: dict[str, Any],
) -> ModelSpec:
    """The model that is asked, if its key may use it and it does what is asked."""
    spec = routing.find(config, routing.model_of(route, body), route.operation.dialect)
    auth.require_model(key_of(request), spec.model_id)
    exchange.model_id = spec.model_id
    return spec


def _json_headers(headers: dict[str, str]) -> dict[str, str]:
    """What was read as JSON goes on as JSON: `curl -d` alone says that it is a form."""
    if not headers.get("content-type", "").lower().startswith("application/json"):
        headers["content-type"] = "application/json"
    return headers


def _json(body: object) -> HTTPResponse:
    return HTTPResponse(json.dumps(body), content_type="application/json")
