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

from sparkd.core.errors import Disabled, Misconfigured, NotFound, RequestError
from sparkd.core.model import Config, Dialect, ModelSpec, Status


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked: in which dialect, and where vLLM answers it."""

    dialect: Dialect
    upstream_path: str
    form: bool = False
    """Whether its body is a form with a file, instead of JSON."""
    rewritten: bool = True
    """Whether the rules of request rewriting apply; not where texts and tokens are the matter."""


OPERATIONS: dict[str, Operation] = {
    "chat/completions": Operation(Dialect.CHAT, "/v1/chat/completions"),
    "completions": Operation(Dialect.COMPLETIONS, "/v1/completions"),
    "responses": Operation(Dialect.RESPONSES, "/v1/responses"),
    "messages": Operation(Dialect.MESSAGES, "/v1/messages"),
    "messages/count_tokens": Operation(Dialect.MESSAGES, "/v1/messages/count_tokens"),
    "embeddings": Operation(Dialect.EMBEDDINGS, "/v1/embeddings"),
    "rerank": Operation(Dialect.RERANK, "/v1/rerank"),
    "score": Operation(Dialect.SCORE, "/v1/score"),
    "pooling": Operation(Dialect.POOLING, "/pooling"),
    "classify": Operation(Dialect.CLASSIFY, "/classify"),
    "audio/transcriptions": Operation(
        Dialect.TRANSCRIPTIONS, "/v1/audio/transcriptions", form=True, rewritten=False
    ),
    "audio/translations": Operation(
        Dialect.TRANSCRIPTIONS, "/v1/audio/translations", form=True, rewritten=False
    ),
    "tokenize": Operation(Dialect.CHAT, "/tokenize", rewritten=False),
    "detokenize": Operation(Dialect.CHAT, "/detokenize", rewritten=False),
}
_DEFAULTS = {"auto": "default_model", "default": "default_model", "small": "small_model"}
"""Names that mean what a setting says, unless a model of the catalog has them."""
_LONGEST_FIRST = sorted(OPERATIONS, key=len, reverse=True)
"""So that "m/chat/completions" is not taken for "completions" of a model "m/chat"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An inference request by its path: what is asked, and of whom if the path says so."""

    name: str
    operation: Operation
    model_id: str | None


_PLAIN = {
    name: Route(name=name, operation=operation, model_id=None)
    for name, operation in OPERATIONS.items()
}


def route(path: str) -> Route:
    """The route of a path under /v1/. Raises NotFound."""
    rest = path.removeprefix("/v1/")
    plain = _PLAIN.get(rest)
    if plain is not None:
        return plain
    for name in _LONGEST_FIRST:
        if rest.endswith(f"/{name}"):
            model_id = unquote(rest.removesuffix(f"/{name}"))
            return Route(name=name, operation=OPERATIONS[name], model_id=model_id)
    raise NotFound(
        f"there is no path {path[:200]!r}",
        hint=f"POST /v1/{{{','.join(OPERATIONS)}}} or GET /v1/models",
        code="unknown_path",
    )


def model_of(route: Route, body: dict[str, Any]) -> str:
    """The name that the request gives. Raises RequestError."""
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


def lookup(config: Config, name: str) -> ModelSpec:
    """The configured model of this id, alias or default name. Raises NotFound or Misconfigured."""
    model_id = name
    spec = config.models.get(name)
    if spec is None:
        model_id = config.aliases.get(name) or _default(config, name) or name
        model_id = config.aliases.get(model_id, model_id)
        spec = config.models.get(model_id)
    if spec is not None:
        return spec
    if model_id in config.broken:
        raise Misconfigured(
            f"the entry of model {model_id!r} is wrong: {config.broken[model_id][0]}",
            hint="sparkctl check",
            code="model_misconfigured",
        )
    if name in _DEFAULTS:
        setting = _DEFAULTS[name]
        raise NotFound(
            f"there is no model {name!r}: {setting} of sparkd.yaml is {model_id!r}"
            if model_id != name
            else f"there is no model {name!r}: sparkd.yaml has no {setting}",
            hint=f"set {setting} in /etc/sparkd/sparkd.yaml to a model of: sparkctl models",
            code="model_not_found",
            param="model",
        )
    listing = "GET /v1/models lists the models, as does: sparkctl models"
    raise NotFound(
        f"there is no model {model_id[:200]!r}",
        # After a syntax error nobody knows which models a file would have had.
        hint="the configuration has problems: sparkctl check" if config.problems else listing,
        code="model_not_found",
        param="model",
    )


def _default(config: Config, name: str) -> str | None:
    setting = _DEFAULTS.get(name)
    return None if setting is None else getattr(config.settings, setting)


def check_enabled(spec: ModelSpec) -> None:
    """Raises Disabled when the model may not be started."""
    if spec.status is Status.DISABLED:
        raise Disabled(
            f"model {spec.model_id!r} is disabled: {spec.reason}",
            hint="to try it all the same, copy its entry into /etc/sparkd/models.d with "
            "status: experimental",
            param="model",
        )


def find(config: Config, model_id: str, dialect: Dialect) -> ModelSpec:
    """The model, if it may run and speaks the dialect. Raises as `lookup`, and RequestError."""
    spec = lookup(config, model_id)
    check_enabled(spec)
    if dialect not in spec.dialects:
        spoken = ", ".join(spec.dialects)
        raise RequestError(
            f"model {spec.model_id!r} does not do {dialect}",
            hint=f"it does {spoken}",
            code="dialect_unsupported",
        )
    return spec
