# SPDX-License-Identifier: Apache-2.0
"""The model that a client means by a name, and the refusal when there is none for its key.

Clients write ids in other cases, with `:latest` as Ollama has it, or with the prefix of a provider.
Such a name means a model if it means only one. A key that is for some models learns of no other
one: neither a refusal nor a suggestion names it, and its entry is not told from one that does not
exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparkd.core.access import auth
from sparkd.core.access.api_keys import ApiKey
from sparkd.core.errors import Misconfigured, NotFound, SparkdError
from sparkd.core.http import routing
from sparkd.core.http.routing import Route
from sparkd.core.model import Config, ModelSpec, Status

_TAG = ":latest"
_PROVIDER = re.compile(r"(?:[a-z0-9][a-z0-9_-]*(?:\.[a-z0-9_-]+)*/)+(?=[^/]+\Z)")
"""One or more names before the id, as in `openai/` or `hf.co/org/`; no `.` or `..` of a path."""
_NAME_MOST = 200
"""A longer name is no slip of a person; it is not compared with others."""
_SUGGESTED_MOST = 3
_LIST = "GET /v1/models lists the models"


@dataclass(frozen=True, slots=True)
class Meant:
    """The model that a client means."""

    spec: ModelSpec
    name: str
    """The name by which its server knows it: the id of the entry, or of one of its adapters."""


def resolve(config: Config, name: str, key: ApiKey) -> Meant:
    """The model that a client means. Raises Forbidden, NotFound or Misconfigured."""
    try:
        spec = routing.lookup(config, name)
    except (NotFound, Misconfigured) as error:
        meant = _meant(config, name, key)
        if meant is None:
            raise _refusal(config, name, key, error) from None
        return meant
    written = name if name in config.aliases else routing.default_model(config, name) or name
    exact = _served(spec, written)
    if not key.may_use_as(spec.model_id, exact.name):
        raise _refusal(config, name, key, None)
    return exact


def _served(spec: ModelSpec, name: str) -> Meant:
    """The model under one of its exact names: its adapter of that name, else the model itself."""
    return Meant(spec, name if name in spec.adapter_names else spec.model_id)


def asked(config: Config, route: Route, body: dict[str, Any], key: ApiKey) -> Meant:
    """The model of an inference request, if it does what is asked.

    Raises as `resolve`, and RequestError or Disabled.
    """
    name = routing.model_of(route, body)
    try:
        meant = resolve(config, name, key)
    except SparkdError as error:
        if route.model_id is not None and error.code in ("model_not_found", "model_forbidden"):
            error.message = error.discreet = f"{error.message}, which the path names"
            error.hint = f"POST /v1/{route.name} takes the model from the body; {error.hint}"
        raise
    routing.check_use(meant.spec, route.operation.dialect)
    routing.check_stateless(route, body, meant.spec)
    return meant


def _meant(config: Config, name: str, key: ApiKey) -> Meant | None:
    """The one model that the name means in another spelling, of those that the key may use."""
    if len(name) > _NAME_MOST or not name.isascii():
        return None
    names = {**config.aliases, **{model_id: model_id for model_id in config.models}}
    for spelling in _spellings(name):
        served = [
            _served(config.models[model_id], known)
            for known, model_id in names.items()
            if known.casefold() == spelling and model_id in config.models
        ]
        found = {
            (one.spec.model_id, one.name): one
            for one in served
            if key.may_use_as(one.spec.model_id, one.name)
        }
        if found:
            return found.popitem()[1] if len(found) == 1 else None
    return None


def _spellings(name: str) -> Iterator[str]:
    """The name as it is compared: as it is, without a tag, without a provider, without both."""
    folded = name.casefold()
    for tagged in dict.fromkeys((folded, folded.removesuffix(_TAG))):
        yield tagged
        provider = _PROVIDER.match(tagged)
        if provider is not None:
            yield tagged[provider.end() :]


def _refusal(config: Config, name: str, key: ApiKey, error: SparkdError | None) -> SparkdError:
    """The error of a name that means no model of this key; `error` is that of a key for all."""
    if error is None or not key.may_use(name):
        refused: SparkdError = auth.forbidden_model(key, name[:_NAME_MOST])
    elif isinstance(error, Misconfigured) or config.problems:
        return error
    else:
        refused = error
    near = _nearest(config, name, key)
    if near:
        refused.hint = f"did you mean {' or '.join(near)}? {_LIST}"
    return refused


def _nearest(config: Config, name: str, key: ApiKey) -> list[str]:
    import difflib  # only a wrong name pays for it

    if len(name) > _NAME_MOST:
        return []
    known = {
        one.casefold(): one
        for spec in config.models.values()
        if spec.status is not Status.DISABLED
        for one in (spec.model_id, *spec.adapter_names)
        if key.may_use_as(spec.model_id, one)
    }
    close: dict[str, None] = {}
    for spelling in _spellings(name):
        close |= dict.fromkeys(difflib.get_close_matches(spelling, known, n=_SUGGESTED_MOST))
    return [known[one] for one in close][:_SUGGESTED_MOST]
