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
from sparkd.core.model import ModelSpec, Status
from sparkd.core.presence import Missing
from sparkd.core.rewrite import rewrite
from sparkd.proxy import Outgoing, request_headers
from sparkd.status import RESIDENT, states
from sparkd.web.admission import admitted, key_of
from sparkd.web.context import READ, Context
from sparkd.web.exchange import Exchange
from sparkd.web.requestid import request_id


def add_routes(app: Sanic[Any, Any]) -> None:
    access = Access.INFERENCE
    app.add_route(list_models, "/v1/models", methods=READ, ctx_access=access)
    app.add_route(show_model, "/v1/models/<model_id:path>", methods=READ, ctx_access=access)
    app.add_route(infer, "/v1/<rest:path>", methods=["POST"], stream=True, ctx_access=access)


async def list_models(request: Request) -> HTTPResponse:
    """The models on this host, with `?all=1` those of the catalog too; starts nothing."""
    context, key = admitted(request), key_of(request)
    state, missing = await _looked_at(context)
    every = request.args.get("all") == "1"
    data = [
        card(spec, state.get(spec.model_id), missing.get(spec.model_id, ()))
        for spec in context.config.models.values()
        if key.may_use(spec.model_id)
        and spec.status is not Status.DISABLED
        and (every or not missing.get(spec.model_id) or state.get(spec.model_id) in RESIDENT)
    ]
    return _json({"object": "list", "data": data})


async def show_model(request: Request, model_id: str) -> HTTPResponse:
    """One model, as the list has it."""
    context = admitted(request)
    spec = routing.lookup(context.config, unquote(model_id))
    auth.require_model(key_of(request), spec.model_id)
    routing.check_enabled(spec)
    state, missing = await _looked_at(context)
    return _json(card(spec, state.get(spec.model_id), missing.get(spec.model_id, ())))


async def _looked_at(context: Context) -> tuple[dict[str, str], dict[str, tuple[Missing, ...]]]:
    """The state of each model, and what each lacks on this host."""
    return await asyncio.gather(
        states(context.runtime, context.config), context.runtime.presence.survey(context.config)
    )


async def infer(request: Request, rest: str) -> None:
    """One inference request, from the key to the last byte of the answer."""
    context: Context = request.app.ctx.sparkd
    started_s = time.monotonic()
    exchange = Exchange(request, request_id(request), context.traffic)
    with context.open_requests:
        try:
            admitted(request)
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
        finally:
            exchange.ended(started_s, context.config.settings.log_requests)


async def _infer(context: Context, request: Request, exchange: Exchange) -> None:
    config = context.config
    route = routing.route(request.path)
    operation = route.operation
    exchange.operation = route.name
    raw = await exchange.read_body(config.settings.body_limit_bytes)
    headers = request_headers(request.headers, exchange.request_id)
    if operation.form:
        form = Form(raw, headers.get("content-type", ""))
        named = {"model": form.text("model")}
        spec = _asked(context, request, exchange, route, named)
        streams = form.text("stream") == "true"
        out = form.with_text("model", spec.model_id)
    else:
        body = routing.parse_body(raw)
        spec = _asked(context, request, exchange, route, body)
        streams = body.get("stream") is True
        rewritten = rewrite(spec, operation.dialect, body) if operation.rewritten else body
        out = routing.upstream_body(raw, body, spec.model_id, rewritten)
        headers = _json_headers(headers)
    outgoing = Outgoing(method="POST", path=operation.upstream_path, headers=headers, body=out)
    told = (exchange.granted, exchange.notice if streams else None)
    with context.traffic.flight(spec.model_id, len(out)):
        async with await context.proxy.answer(config, spec, outgoing, *told) as answer:
            await exchange.relay(answer)
            await context.sampler.sample(spec.model_id)


def _asked(
    context: Context,
    request: Request,
    exchange: Exchange,
    route: routing.Route,
    body: dict[str, Any],
) -> ModelSpec:
    """The model that is asked, if its key may use it and it does what is asked."""
    name = routing.model_of(route, body)
    spec = routing.find(context.config, name, route.operation.dialect)
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
