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

from sparkd.core import routing
from sparkd.core.model import ModelSpec
from sparkd.core.names import Names
from sparkd.status import reference_state, status
from sparkd.web.admission import admitted
from sparkd.web.context import Context


def add_routes(app: Sanic[Any, Any]) -> None:
    app.add_route(show_status, "/status", methods=["GET"])
    app.add_route(debug_state, "/debug/state", methods=["GET"])
    app.add_route(load, "/models/<model_id:path>/load", methods=["POST"])
    app.add_route(unload, "/models/<model_id:path>/unload", methods=["POST"])
    app.add_route(load, "/ensure/<model_id:path>", methods=["POST"], name="ensure")
    app.add_route(check, "/check/<model_id:path>", methods=["POST"])
    app.add_route(touch, "/touch/<model_id:path>", methods=["POST"])
    app.add_route(touch, "/debug/touch/<model_id:path>", methods=["POST"], name="debug_touch")


async def show_status(request: Request) -> HTTPResponse:
    """What runs, what waits, and the state of every model."""
    context = admitted(request)
    return _json(await status(context.runtime, context.config))


async def debug_state(request: Request) -> HTTPResponse:
    """The same in the terms of the gateway that this one replaces."""
    context = admitted(request)
    described = await status(context.runtime, context.config)
    return _json(reference_state(described, context.config))


async def load(request: Request, model_id: str) -> HTTPResponse:
    """Start the model and wait until it is ready."""
    context = admitted(request)
    spec = _spec(context, model_id)
    with context.open_requests.one():
        context.runtime.records.clear_failure(spec.model_id)
        grant = await context.runtime.ensurer.grant(context.config, spec)
        grant.lease.close()
    return _json({"ok": True, "name": spec.model_id, "state": "ready"})


async def unload(request: Request, model_id: str) -> HTTPResponse:
    """Stop the model once its running requests have ended."""
    context = admitted(request)
    spec = _spec(context, model_id)
    with context.open_requests.one():
        ran = await context.runtime.stopper.stop(context.config, spec.model_id, drain=True)
    return _json({"ok": True, "name": spec.model_id, "state": "stopped", "ran": ran})


async def check(request: Request, model_id: str) -> HTTPResponse:
    """Whether the model is ready now; starts nothing."""
    context = admitted(request)
    spec = _spec(context, model_id)
    described = await status(context.runtime, context.config)
    models: Any = described["models"]
    state = next(model["state"] for model in models if model["id"] == spec.model_id)
    ready = state in ("ready", "busy")
    return _json({"status": "ready" if ready else state, "model": spec.model_id})


async def touch(request: Request, model_id: str) -> HTTPResponse:
    """Put the idle deadline of a running model off, as a use now would."""
    context = admitted(request)
    spec = _spec(context, model_id)
    names = Names(spec.model_id)
    lease = context.runtime.leases.try_use(names)
    if lease is not None:
        lease.close()
    seen_at = context.runtime.leases.last_used_at(names) or 0.0
    return _json({"ok": True, "name": spec.model_id, "lastSeen": round(seen_at * 1000)})


def _spec(context: Context, model_id: str) -> ModelSpec:
    """The model of a path. Raises NotFound or Misconfigured."""
    return routing.lookup(context.config, unquote(model_id))


def _json(body: object) -> HTTPResponse:
    return HTTPResponse(json.dumps(body), content_type="application/json")
