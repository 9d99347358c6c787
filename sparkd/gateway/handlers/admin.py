# SPDX-License-Identifier: Apache-2.0
"""Control and status: none of it counts as use of a model, all of it needs a key.

`/debug/…`, `/ensure/…`, `/check/…` and `/touch/…` keep the paths of the gateway that this one
replaces; they answer in its terms.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from sanic import HTTPResponse, Request, Sanic

from sparkd.core.access.api_keys import ApiKey
from sparkd.core.access.auth import Access
from sparkd.core.catalog import lookup
from sparkd.core.model import ModelSpec
from sparkd.core.names import Names
from sparkd.gateway.admission import admitted, key_of, visibility_of
from sparkd.gateway.context import READ, Context
from sparkd.observe.status import reference_state, used, visible_to


def add_routes(app: Sanic[Any, Any]) -> None:
    """To read the state takes any key, to change it an admin's."""
    any_key, admin = Access.ANY, Access.ADMIN
    app.add_route(show_status, "/status", methods=READ, ctx_access=any_key)
    app.add_route(debug_state, "/debug/state", methods=READ, ctx_access=any_key)
    app.add_route(show_diagnosis, "/doctor", methods=READ, ctx_access=admin)
    app.add_route(check, "/check/<model_id:path>", methods=["POST"], ctx_access=any_key)
    for path, handler in (
        ("/models/<model_id:path>/load", load),
        ("/models/<model_id:path>/unload", unload),
        ("/models/<model_id:path>/pin", pin),
        ("/models/<model_id:path>/unpin", unpin),
        ("/ensure/<model_id:path>", load),
        ("/touch/<model_id:path>", touch),
        ("/debug/touch/<model_id:path>", touch),
    ):
        name = path.replace("/<model_id:path>", "").strip("/").replace("/", "_")
        app.add_route(handler, path, methods=["POST"], name=name, ctx_access=admin)


async def show_status(request: Request) -> HTTPResponse:
    """What runs, what waits, and the state of every model."""
    context = admitted(request)
    keys = [used(meter) for meter in context.meters.all()]
    described = {**await context.readings.status.read(), "keys": keys}
    return _json(visibility_of(request).value(visible_to(key_of(request), described)))


async def debug_state(request: Request) -> HTTPResponse:
    """The same in the terms of the gateway that this one replaces."""
    context = admitted(request)
    described = await context.readings.status.read()
    shown = visibility_of(request).value(visible_to(key_of(request), described))
    return _json(reference_state(shown, context.config))


async def show_diagnosis(request: Request) -> HTTPResponse:
    """What is wrong with the host, why it matters, and what mends it."""
    diagnosis = await admitted(request).doctor.diagnosis()
    return _json(visibility_of(request).value(diagnosis))


async def load(request: Request, model_id: str) -> HTTPResponse:
    """Start the model and wait until it is ready."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    with context.open_requests:
        context.runtime.records.clear_failure(spec.model_id)
        grant = await context.runtime.ensurer.grant(context.config, spec)
        grant.lease.close()
    return _json({"ok": True, "name": spec.model_id, "state": "ready"})


async def unload(request: Request, model_id: str) -> HTTPResponse:
    """Stop the model once its running requests have ended."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    with context.open_requests:
        ran = await context.runtime.stopper.stop(context.config, spec.model_id, drain=True)
    return _json({"ok": True, "name": spec.model_id, "state": "stopped", "ran": ran})


async def pin(request: Request, model_id: str) -> HTTPResponse:
    """Keep the model when it is idle, until the next boot."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    context.runtime.records.pin(spec.model_id)
    return _json({"ok": True, "name": spec.model_id, "pinned": True})


async def unpin(request: Request, model_id: str) -> HTTPResponse:
    """Let the model go again when it is idle, unless its entry pins it."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    context.runtime.records.unpin(spec.model_id)
    return _json({"ok": True, "name": spec.model_id, "pinned": spec.pinned})


async def check(request: Request, model_id: str) -> HTTPResponse:
    """Whether the model is ready now; starts nothing."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    described = await context.readings.status.read()
    models: Any = described["models"]
    state = next(model["state"] for model in models if model["id"] == spec.model_id)
    ready = state in ("ready", "busy")
    return _json({"status": "ready" if ready else state, "model": spec.model_id})


async def touch(request: Request, model_id: str) -> HTTPResponse:
    """Put the idle deadline of a running model off, as a use now would."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    names = Names(spec.model_id)
    lease = context.runtime.leases.try_use(names)
    if lease is not None:
        lease.close()
    seen_at = context.runtime.leases.last_used_at(names) or 0.0
    return _json({"ok": True, "name": spec.model_id, "lastSeen": round(seen_at * 1000)})


def _spec(context: Context, key: ApiKey, model_id: str) -> ModelSpec:
    """The model of a path. Raises NotFound, Misconfigured or Forbidden."""
    return lookup.resolve(context.config, unquote(model_id), key).spec


def _json(body: object) -> HTTPResponse:
    return HTTPResponse(json.dumps(body), content_type="application/json")
