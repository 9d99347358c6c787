# SPDX-License-Identifier: Apache-2.0
"""Which operation and which model a request means: an allow-list of paths, nothing else passes.

    /v1/chat/completions              the model is named in the body
    /v1/{model}/chat/completions      the model is named in the path, whatever the body says

Paths of the engine that are not listed (vLLM's development endpoints among them) are unreachable.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from sparkd.core.errors import Misconfigured, NotFound, RequestError
from sparkd.core.model import Config, Dialect, ModelSpec

OPERATIONS: dict[str, Dialect] = {
    "chat/completions": Dialect.CHAT,
    "completions": Dialect.COMPLETIONS,
    "embeddings": Dialect.EMBEDDINGS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An inference request by its path: what is asked, and of whom if the path says so."""

    operation: str
    dialect: Dialect
    model_id: str | None

    @property
    def upstream_path(self) -> str:
        return f"/v1/{self.operation}"


def route(path: str) -> Route:
    """The route of a path under /v1/. Raises NotFound."""
    rest = path.removeprefix("/v1/")
    # The longest operation first: "m/chat/completions" also ends in "completions".
    for operation in sorted(OPERATIONS, key=len, reverse=True):
        if rest == operation:
            return Route(operation=operation, dialect=OPERATIONS[operation], model_id=None)
        if rest.endswith(f"/{operation}"):
            model_id = unquote(rest.removesuffix(f"/{operation}"))
            return Route(operation=operation, dialect=OPERATIONS[operation], model_id=model_id)
    raise NotFound(
        f"there is no path {path[:200]!r}",
        hint=f"POST /v1/{{{','.join(OPERATIONS)}}} or GET /v1/models",
        code="unknown_path",
    )


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises RequestError."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(
            f"the body is not JSON: {reason}",
            hint="send a JSON object with a 'model'",
            code="invalid_json",
        ) from None
    if not isinstance(body, dict):
        raise RequestError(
            f"the body is a JSON {type(body).__name__}, not an object",
            hint="send a JSON object with a 'model'",
            code="invalid_json",
        )
    return body


def model_of(route: Route, body: dict[str, Any]) -> str:
    """The id the request names. Raises RequestError."""
    if route.model_id is not None:
        return route.model_id
    model_id = body.get("model")
    if not isinstance(model_id, str) or not model_id:
        found = "has none" if "model" not in body else f"has {json.dumps(model_id)[:80]}"
        raise RequestError(
            f"the body must name a model as a string in 'model', but it {found}",
            hint="GET /v1/models lists the models",
            code="model_missing",
            param="model",
        )
    return model_id


def find(config: Config, model_id: str, dialect: Dialect) -> ModelSpec:
    """The configured model. Raises NotFound, or RequestError when it lacks the dialect."""
    spec = config.models.get(model_id)
    if spec is None:
        if model_id in config.broken:
            raise Misconfigured(
                f"the entry of model {model_id!r} is wrong: {config.broken[model_id][0]}",
                hint="sparkctl check",
                code="model_misconfigured",
            )
        raise NotFound(
            f"there is no model {model_id[:200]!r}",
            hint="GET /v1/models lists the models, as does: sparkctl models",
            code="model_not_found",
            param="model",
        )
    if dialect not in spec.dialects:
        spoken = ", ".join(spec.dialects)
        raise RequestError(
            f"model {model_id!r} does not do {dialect}",
            hint=f"it does {spoken}",
            code="dialect_unsupported",
        )
    return spec


def upstream_body(raw: bytes, body: dict[str, Any], model_id: str) -> bytes:
    """The body for the engine: as it came, unless the path named another model than the body."""
    if body.get("model") == model_id:
        return raw
    return json.dumps({**body, "model": model_id}).encode()
