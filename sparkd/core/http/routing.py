# SPDX-License-Identifier: Apache-2.0
"""The operation and the model that a request means, from an allow-list of paths.

    /v1/chat/completions              the model is named in the body
    /v1/{model}/chat/completions      the model is named in the path, whatever the body says

Paths of the engine that are not listed (vLLM's development endpoints among them) are unreachable.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
_STORE = "VLLM_ENABLE_RESPONSES_API_STORE"
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
    raise unknown_path(path)


def is_ollamas(path: str) -> bool:
    """Whether a path is one of Ollama's API, and not of one that others have at `/api/v1`."""
    return path.startswith("/api/") and not path.startswith("/api/v1/")


def unknown_path(path: str) -> NotFound:
    """The refusal of a path, which shows the right one where it can be told."""
    if path.startswith("/v1/responses/"):
        return _not_stored()
    if is_ollamas(path):
        return NotFound(
            f"sparkd does not speak Ollama's API, so there is no path {path[:200]!r}",
            hint="choose 'OpenAI compatible' in the client, with the base URL http://HOST:PORT/v1",
            code="unknown_path",
        )
    meant = next((name for name in _LONGEST_FIRST if path.endswith(f"/{name}")), None)
    if meant is not None:
        hint = (
            f"did you mean /v1/{meant}? The base URL of OpenAI's libraries ends in /v1, "
            "that of Anthropic's does not"
        )
    elif path.startswith("/v1"):
        hint = f"POST /v1/{{{','.join(OPERATIONS)}}} or GET /v1/models"
    else:
        hint = "the API is under /v1/; GET /v1/models lists the models"
    return NotFound(f"there is no path {path[:200]!r}", hint=hint, code="unknown_path")


def _not_stored(param: str | None = None) -> NotFound:
    return NotFound(
        "sparkd does not store responses, so that there is none to read, continue or delete",
        hint="POST /v1/responses with the whole conversation in 'input'",
        code="responses_not_stored",
        param=param,
    )


def check_stateless(route: Route, body: dict[str, Any], spec: ModelSpec) -> None:
    """Raise NotFound when a request continues a response that no vLLM has stored."""
    stores = spec.engine is not None or (_STORE, "1") in spec.env
    if route.name == "responses" and body.get("previous_response_id") and not stores:
        raise _not_stored("previous_response_id")


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
        model_id = _by_alias(config, name) or default_model(config, name) or name
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
        # After a syntax error the models of the file are unknown.
        hint="the configuration has problems: sparkctl check" if config.problems else listing,
        code="model_not_found",
        param="model",
    )


def _by_alias(config: Config, name: str) -> str | None:
    """The model of this alias, or of the longest pattern that the name matches."""
    found = config.aliases.get(name)
    if found is not None or name in _DEFAULTS:
        return found
    patterns = [one for one in config.aliases if "*" in one and fnmatchcase(name, one)]
    return config.aliases[max(patterns, key=len)] if patterns else None


def default_model(config: Config, name: str) -> str | None:
    """The model that sparkd.yaml gives for `auto`, `default` or `small`; None for other names."""
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


def check_use(spec: ModelSpec, dialect: Dialect) -> None:
    """Raise Disabled, or RequestError when the model does not speak the dialect."""
    check_enabled(spec)
    if dialect not in spec.dialects:
        spoken = ", ".join(spec.dialects)
        raise RequestError(
            f"model {spec.model_id!r} does not do {dialect}",
            hint=f"it does {spoken}",
            code="dialect_unsupported",
        )
