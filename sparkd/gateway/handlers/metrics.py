# SPDX-License-Identifier: Apache-2.0
"""Figures for machines: `/metrics` for Prometheus, `/debug/gpu-stats` as the gateway that this one
replaces had it. Neither counts as use of a model, and neither keeps the gateway.
"""

from __future__ import annotations

from urllib.parse import unquote

from sparkd.core.access import auth
from sparkd.core.access.auth import Access
from sparkd.core.errors import Forbidden, NotFound
from sparkd.core.model import MetricsAccess
from sparkd.gateway.admission import admitted, key_of
from sparkd.gateway.context import Context
from sparkd.gateway.http.messages import Request, Response, Route, json_response
from sparkd.observe.session_statistics import reference_stats

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def show_metrics(request: Request) -> Response:
    """Metrics of the gateway and of every engine that runs, for Prometheus."""
    context: Context = request.context
    if context.config.settings.metrics_access is MetricsAccess.KEY:
        admitted(request)
        if key_of(request).models:
            raise Forbidden(
                f"metrics tell of all models, the API key {key_of(request).name!r} is for some",
                hint="sudo sparkctl key add NAME, without --model",
                code="model_forbidden",
            )
    return Response(await context.readings.metrics.read(), content_type=_CONTENT_TYPE)


async def gpu_stats(request: Request) -> Response:
    """Sessions, run time and memory of every model that ever ran."""
    session_stats_by_model = admitted(request).runtime.sessions.all()
    may_use = key_of(request).may_use
    return json_response(
        {
            "stats": {
                m: reference_stats(one) for m, one in session_stats_by_model.items() if may_use(m)
            }
        }
    )


async def gpu_stats_of(request: Request, model_id: str) -> Response:
    """Sessions, run time and memory of one model."""
    name = unquote(model_id)
    context = admitted(request)
    auth.require_model(key_of(request), name)
    session_stats = context.runtime.sessions.session_stats(name)
    if session_stats is None:
        raise NotFound(
            f"no stats found: model {name[:80]!r} never ran here",
            hint="GET /debug/gpu-stats lists those that did",
            code="no_stats",
        )
    return json_response({"model": name, "stats": reference_stats(session_stats)})


ROUTES = (
    Route(path="/metrics", handler=show_metrics, access=Access.ANY, answers="text/plain"),
    Route(path="/debug/gpu-stats", handler=gpu_stats, access=Access.ANY),
    Route(path="/debug/gpu-stats/<model_id:path>", handler=gpu_stats_of, access=Access.ANY),
)
