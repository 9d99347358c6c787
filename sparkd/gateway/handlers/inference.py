# SPDX-License-Identifier: Apache-2.0
"""The `/v1/` handlers: authentication, routing, ensuring, proxying, in that order.

The key is checked before a byte of the body is read, the body before anything is started.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import unquote

from sparkd.core.access.auth import Access
from sparkd.core.catalog import lookup
from sparkd.core.catalog.cards import cards
from sparkd.core.catalog.model_list import is_anthropics, listing, shown
from sparkd.core.catalog.presence import Missing
from sparkd.core.errors import SparkdError, UpstreamLost
from sparkd.core.http import routing
from sparkd.core.http.keep_alive import KeepAlives, chosen
from sparkd.core.model import Config, KeepAlive, Status
from sparkd.core.model_state import RESIDENT, State
from sparkd.core.rewriting.request_body import Prepared, prepare, prepare_form
from sparkd.gateway.admission import admitted, identified, key_of, visibility_of
from sparkd.gateway.context import Context
from sparkd.gateway.handlers.relay import Relay
from sparkd.gateway.http.client_link import ClientStalled
from sparkd.gateway.http.messages import Request, Response, Route, json_response
from sparkd.gateway.proxy import Outgoing, request_headers
from sparkd.gateway.render import unexpected
from sparkd.scheduling.queue import OnWait, Progress


async def list_models(request: Request) -> Response:
    """The models on this host, with `?all=1` those of the catalog too; starts no model."""
    context, key = admitted(request), key_of(request)
    state, missing = await _looked_at(context)
    every = request.query.get("all") == "1"
    data = [
        one
        for spec in context.config.models.values()
        if spec.status is not Status.DISABLED
        and (every or not missing.get(spec.model_id) or state.get(spec.model_id) in RESIDENT)
        for one in cards(spec, state.get(spec.model_id), missing.get(spec.model_id, ()))
        if key.may_use_as(spec.model_id, str(one["id"]))
    ]
    return json_response(_listed(request, data))


def _listed(request: Request, data: list[dict[str, object]]) -> object:
    """The list in the client's form, as far as its key may know."""
    anthropic = is_anthropics(request.headers)
    return visibility_of(request).value(listing(data, request.query, anthropic=anthropic))


async def show_model(request: Request, model_id: str) -> Response:
    """One model, as the list has it."""
    context = admitted(request)
    meant = lookup.resolve(context.config, unquote(model_id), key_of(request))
    spec = meant.spec
    routing.check_enabled(spec)
    state, missing = await _looked_at(context)
    all_cards = cards(spec, state.get(spec.model_id), missing.get(spec.model_id, ()))
    shown_card = next(one for one in all_cards if one["id"] == meant.name)
    anthropic = is_anthropics(request.headers)
    return json_response(visibility_of(request).value(shown(shown_card, anthropic=anthropic)))


async def _looked_at(context: Context) -> tuple[dict[str, State], dict[str, tuple[Missing, ...]]]:
    """The state of each model, and the parts that each lacks on this host."""
    return await asyncio.gather(
        context.readings.states(), context.runtime.presence.survey(context.config)
    )


async def infer(request: Request, rest: str) -> None:
    """One inference request, from the key to the last byte of the answer."""
    context: Context = request.context
    started_s = time.monotonic()
    relay = Relay(request, request.id, context.traffic, context.bodies)
    with context.open_requests:
        try:
            identified(request)
            key = key_of(request)
            relay.key_name = key.name
            relay.meter = meter = context.meters.of(key)
            meter.enter(key, started_s)
            try:
                await _infer(context, request, relay)
            finally:
                meter.leave()
        except SparkdError as error:
            if isinstance(error, UpstreamLost):
                await context.runtime.exit_watch.explain(relay.model_id, error)
            if not await relay.fail(error):
                raise
        except asyncio.CancelledError as error:
            if not relay.complete:
                stalled = isinstance(error, ClientStalled)
                relay.reason = "client_stalled" if stalled else "client_gone"
            raise
        except Exception as exception:
            bug = unexpected(exception)
            if not await relay.fail(bug):
                raise bug from None
        finally:
            relay.close()
            relay.ended(started_s, context.config.settings.log_requests)


async def _infer(context: Context, request: Request, relay: Relay) -> None:
    route = routing.route(request.path)
    relay.operation = route.name
    config, prepared, headers = await _prepared(context, request, relay, route)
    meant, size = prepared.meant, len(prepared.payload)
    spec = meant.spec
    relay.prepared(size)
    if prepared.streams:
        # Keep-alives and errors go between the events of the engine, as plain text.
        headers["accept-encoding"] = "identity"
        _keep_alive(request, relay, config, meant, headers["x-request-id"])
    scheduler = context.runtime.scheduler
    relay.hurry_when(lambda: scheduler.is_in_the_way(spec.model_id))
    told = (relay.granted, _noticed(request, relay) if relay.keeps_alive else None)
    path = route.operation.upstream_path
    outgoing = Outgoing(method="POST", path=path, headers=headers, body=prepared.payload)
    answering = context.proxy.answer(config, spec, outgoing, *told)
    # This frame lives as long as the answer, and the body must not.
    del prepared, outgoing
    with context.traffic.in_flight_request(spec.model_id, size):
        async with await answering as answer:
            relay.sent()
            await relay.relay(answer, context.runtime.exit_watch.explain)
            await context.sampler.sample(spec.model_id)


async def _prepared(
    context: Context, request: Request, relay: Relay, route: routing.Route
) -> tuple[Config, Prepared, dict[str, str]]:
    """The configuration that holds for the request, and the body and headers for the engine."""
    raw = await relay.read_body(context.config.settings)
    # A reload may have come during the body: everything after it is of one configuration.
    config, operation = context.config, route.operation
    headers = request_headers(request.headers)
    choose = partial(_asked, config, request, relay, route)
    if operation.form:
        kind = headers.get("content-type", "")
        prepared = await context.body_worker.run(len(raw), prepare_form, raw, kind, choose)
    else:
        dialect = operation.dialect if operation.rewritten else None
        nonce = secrets.token_hex(16)
        prepared = await context.body_worker.run(len(raw), prepare, raw, nonce, choose, dialect)
        headers = _json_headers(headers)
    return config, prepared, headers


def _noticed(request: Request, relay: Relay) -> OnWait:
    """A callback that tells the client why it waits, without names hidden from its key."""
    visibility = visibility_of(request)

    async def notice(progress: Progress) -> None:
        await relay.notice(replace(progress, why=visibility.text(progress.why)))

    return relay.notice if visibility.whole else notice


def _keep_alive(
    request: Request, relay: Relay, config: Config, meant: lookup.Meant, engine_request_id: str
) -> None:
    """Have a stream kept alive, in the form that its client or the settings choose."""
    form = chosen(config.settings.keep_alive, relay.operation, request.headers)
    if form is not KeepAlive.OFF:
        beats = KeepAlives(
            form=form,
            operation=relay.operation,
            model_id=meant.name,
            engine_request_id=engine_request_id if meant.spec.engine is None else "",
            created_at=int(time.time()),
        )
        relay.keep_alive(beats)


def _asked(
    config: Config,
    request: Request,
    relay: Relay,
    route: routing.Route,
    body: dict[str, Any],
) -> lookup.Meant:
    """The requested model, if the key may use it and it supports the operation."""
    meant = lookup.asked(config, route, body, key_of(request))
    relay.model_id = meant.spec.model_id
    return meant


def _json_headers(headers: dict[str, str]) -> dict[str, str]:
    """The headers of a JSON body; `curl -d` alone declares a form."""
    if not headers.get("content-type", "").lower().startswith("application/json"):
        headers["content-type"] = "application/json"
    return headers


ROUTES = (
    Route(path="/v1/models", handler=list_models, access=Access.INFERENCE),
    Route(path="/v1/models/<model_id:path>", handler=show_model, access=Access.INFERENCE),
    Route(
        path="/v1/<rest:path>",
        handler=infer,
        access=Access.INFERENCE,
        methods=("POST",),
        reads_body=True,
    ),
)
