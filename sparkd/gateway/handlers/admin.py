# SPDX-License-Identifier: Apache-2.0
"""Control and status: none of it counts as use of a model, all of it needs a key.

`/debug/…`, `/ensure/…`, `/check/…` and `/touch/…` keep the paths of the gateway that this one
replaces; they answer in its terms.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from sparkd.core.access.api_keys import ApiKey
from sparkd.core.access.auth import Access
from sparkd.core.catalog import lookup
from sparkd.core.model import ModelSpec
from sparkd.core.names import Names
from sparkd.gateway.admission import admitted, key_of, visibility_of
from sparkd.gateway.context import Context
from sparkd.gateway.http.messages import Handler, Request, Response, Route, json_response
from sparkd.observe.status import reference_state, used, visible_to


async def show_status(request: Request) -> Response:
    """Running models, waiting requests, and the state of every model."""
    context = admitted(request)
    keys = [used(meter) for meter in context.meters.all()]
    described = {**await context.readings.status.read(), "keys": keys}
    return json_response(visibility_of(request).value(visible_to(key_of(request), described)))


async def debug_state(request: Request) -> Response:
    """The same in the terms of the gateway that this one replaces."""
    context = admitted(request)
    described = await context.readings.status.read()
    shown = visibility_of(request).value(visible_to(key_of(request), described))
    return json_response(reference_state(shown, context.config))


async def show_diagnosis(request: Request) -> Response:
    """Problems of the host, with their effects and fixes."""
    diagnosis = await admitted(request).doctor.diagnosis()
    return json_response(visibility_of(request).value(diagnosis))


async def load(request: Request, model_id: str) -> Response:
    """Start the model and wait until it is ready."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    with context.open_requests:
        context.runtime.records.clear_failure(spec.model_id)
        grant = await context.runtime.ensurer.grant(context.config, spec)
        grant.lease.close()
    return json_response({"ok": True, "name": spec.model_id, "state": "ready"})


async def unload(request: Request, model_id: str) -> Response:
    """Stop the model once its running requests have ended."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    with context.open_requests:
        ran = await context.runtime.stopper.stop(context.config, spec.model_id, drain=True)
    return json_response({"ok": True, "name": spec.model_id, "state": "stopped", "ran": ran})


async def pin(request: Request, model_id: str) -> Response:
    """Keep the model when it is idle, until the next boot."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    context.runtime.records.pin(spec.model_id)
    return json_response({"ok": True, "name": spec.model_id, "pinned": True})


async def unpin(request: Request, model_id: str) -> Response:
    """Let the model go again when it is idle, unless its entry pins it."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    context.runtime.records.unpin(spec.model_id)
    return json_response({"ok": True, "name": spec.model_id, "pinned": spec.pinned})


async def check(request: Request, model_id: str) -> Response:
    """Whether the model is ready now; starts no model."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    described = await context.readings.status.read()
    models: Any = described["models"]
    state = next(model["state"] for model in models if model["id"] == spec.model_id)
    ready = state in ("ready", "busy")
    return json_response({"status": "ready" if ready else state, "model": spec.model_id})


async def touch(request: Request, model_id: str) -> Response:
    """Put the idle deadline of a running model off, as a use now would."""
    context = admitted(request)
    spec = _spec(context, key_of(request), model_id)
    names = Names(spec.model_id)
    lease = context.runtime.leases.try_use(names)
    if lease is not None:
        lease.close()
    seen_at = context.runtime.leases.last_used_at(names) or 0.0
    return json_response({"ok": True, "name": spec.model_id, "lastSeen": round(seen_at * 1000)})


def _spec(context: Context, key: ApiKey, model_id: str) -> ModelSpec:
    """The model of a path. Raises NotFound, Misconfigured or Forbidden."""
    return lookup.resolve(context.config, unquote(model_id), key).spec


def _change(path: str, handler: Handler) -> Route:
    """A route that changes state: for admins."""
    name = path.replace("/<model_id:path>", "").strip("/").replace("/", "_")
    return Route(path=path, handler=handler, access=Access.ADMIN, methods=("POST",), name=name)


ROUTES = (
    Route(path="/status", handler=show_status, access=Access.ANY),
    Route(path="/debug/state", handler=debug_state, access=Access.ANY),
    Route(path="/doctor", handler=show_diagnosis, access=Access.ADMIN),
    Route(path="/check/<model_id:path>", handler=check, access=Access.ANY, methods=("POST",)),
    _change("/models/<model_id:path>/load", load),
    _change("/models/<model_id:path>/unload", unload),
    _change("/models/<model_id:path>/pin", pin),
    _change("/models/<model_id:path>/unpin", unpin),
    _change("/ensure/<model_id:path>", load),
    _change("/touch/<model_id:path>", touch),
    _change("/debug/touch/<model_id:path>", touch),
)
