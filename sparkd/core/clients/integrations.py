# SPDX-License-Identifier: Apache-2.0
"""Ready-made configurations of clients, written from the catalog.

Pure: what a client is told about a model is `clients.offer`'s, how that client wants it written is
decided here, and where the gateway is and what the key is comes from outside.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import yaml

from sparkd.core.clients.programs import Offer, is_offered, offer
from sparkd.core.model import Client, Dialect, Lifecycle, ModelSpec, Status

KEY_VARIABLE = "SPARKD_API_KEY"
"""Where clients that can read a variable of the environment look for the key."""
KEY_PLACEHOLDER = "PASTE-THE-KEY-HERE"
_PROVIDER = "sparkd"
_TIMEOUT_S = 1800
"""How long a client waits for an answer; a first load takes minutes."""


class Target(StrEnum):
    """The clients that a configuration can be written for."""

    OPENCODE = "opencode"
    CLINE = "cline"
    OPENWEBUI = "openwebui"
    CONTINUE = "continue"
    ENV = "env"


FILES = {
    Target.OPENCODE: "opencode.json of a project, or ~/.config/opencode/opencode.json",
    Target.CLINE: None,
    Target.OPENWEBUI: None,
    Target.CONTINUE: "~/.continue/config.yaml",
    Target.ENV: None,
}
"""Where a client looks for its configuration; None for what is no file of the client's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which models a client is told of: the one it begins with, its helper, and all of them."""

    main: ModelSpec
    small: ModelSpec
    """For titles and summaries; the main one where there is no utility."""
    models: tuple[ModelSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Where the gateway is, without a path, and the key for it if it shall be written down."""

    url: str
    key: str | None = None

    @property
    def base_url(self) -> str:
        """As clients of OpenAI's API want it."""
        return f"{self.url}/v1"

    @property
    def key_or_placeholder(self) -> str:
        return self.key or KEY_PLACEHOLDER


def served_as(spec: ModelSpec, name: str) -> ModelSpec:
    """The model as a menu shows it under one of its names: an adapter has its own id there."""
    if name not in spec.adapter_names:
        return spec
    return replace(spec, model_id=name, title=name)


def choose(specs: Iterable[ModelSpec], named: Sequence[ModelSpec] = ()) -> Choice | None:
    """The models for a client's menu: those that are named, the first being the one it begins
    with, or all that are offered; None when there is none that chats.
    """
    offered = [spec for spec in specs if is_offered(spec) and Dialect.CHAT in spec.dialects]
    models = tuple(named or offered)
    if not models:
        return None
    utilities = [spec for spec in models if spec.lifecycle is Lifecycle.UTILITY]
    main = models[0] if named else min(offered, key=_rank)
    return Choice(main=main, small=utilities[0] if utilities else main, models=models)


def _rank(spec: ModelSpec) -> tuple[bool, bool, str]:
    """The model that a client begins with comes first: proven, and not the small one."""
    return (
        spec.lifecycle is Lifecycle.UTILITY,
        spec.status is not Status.VALIDATED,
        spec.model_id,
    )


def render(target: Target, choice: Choice, gateway: Gateway) -> str:
    """The configuration as the client's file holds it, or as its command line."""
    return _RENDERERS[target](choice, gateway)


def _opencode(choice: Choice, gateway: Gateway) -> str:
    options = {
        "baseURL": gateway.base_url,
        "apiKey": gateway.key or f"{{env:{KEY_VARIABLE}}}",
        # Its own limit, five minutes, is shorter than many a load.
        "timeout": False,
    }
    models = {
        spec.model_id: _opencode_model(offer(spec, Client.OPENCODE)) for spec in choice.models
    }
    return _json(
        {
            "$schema": "https://opencode.ai/config.json",
            "provider": {
                _PROVIDER: {
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "sparkd",
                    "options": options,
                    "models": models,
                }
            },
            "model": f"{_PROVIDER}/{choice.main.model_id}",
            "small_model": f"{_PROVIDER}/{choice.small.model_id}",
        }
    )


def _opencode_model(told: Offer) -> dict[str, object]:
    model: dict[str, object] = {
        "name": told.title,
        "tool_call": told.tools,
        "reasoning": told.reasoning,
        "attachment": told.vision,
    }
    if told.context_tokens is not None:
        model["limit"] = {"context": told.context_tokens, "output": told.output_tokens}
    if told.vision:
        model["modalities"] = {"input": ["text", "image"], "output": ["text"]}
    if told.options:
        model["options"] = dict(told.options)
    return model


def _cline(choice: Choice, gateway: Gateway) -> str:
    main = choice.main.model_id
    key = gateway.key or f'"${KEY_VARIABLE}"'
    command = (
        f"cline auth --provider openai-compatible --apikey {key} "
        f"--baseurl {gateway.base_url} --modelid {shlex.quote(main)}"
    )
    lines = [
        "# Cline on the command line:",
        command,
        "#",
        "# Cline in an editor, Settings, API Configuration:",
        "#   API Provider     OpenAI Compatible",
        f"#   Base URL         {gateway.base_url}",
        f"#   API Key          {gateway.key_or_placeholder}",
        "#   Model ID         one of these, with what Model Configuration must say:",
    ]
    rows = [_cline_row(offer(spec, Client.CLINE)) for spec in choice.models]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append(f"#     {'  '.join(cells)}  {row[3]}".rstrip())
    return "\n".join(lines) + "\n"


def _cline_row(told: Offer) -> tuple[str, str, str, str]:
    context = "" if told.context_tokens is None else f"context {told.context_tokens}"
    output = "" if told.output_tokens is None else f"output {told.output_tokens}"
    return told.model_id, context, output, "images" if told.vision else ""


def _openwebui(choice: Choice, gateway: Gateway) -> str:
    variables = {
        "OPENAI_API_BASE_URL": gateway.base_url,
        "OPENAI_API_KEY": gateway.key_or_placeholder,
        "ENABLE_OLLAMA_API": "false",
        "DEFAULT_MODELS": choice.main.model_id,
        "TASK_MODEL_EXTERNAL": choice.small.model_id,
        "AIOHTTP_CLIENT_TIMEOUT": str(_TIMEOUT_S),
    }
    lines = [
        "# The environment of Open WebUI, for --env-file. From a container, 127.0.0.1 is this",
        "# host only with --network=host.",
        *(f"{name}={value}" for name, value in variables.items()),
    ]
    return "\n".join(lines) + "\n"


def _continue(choice: Choice, gateway: Gateway) -> str:
    first = [choice.main, *(spec for spec in choice.models if spec is not choice.main)]
    document = {
        "name": _PROVIDER,
        "version": "1.0.0",
        "schema": "v1",
        "models": [_continue_model(offer(spec, Client.ALL), gateway) for spec in first],
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _continue_model(told: Offer, gateway: Gateway) -> dict[str, object]:
    able = {"tool_use": told.tools, "image_input": told.vision}
    completion = {"contextLength": told.context_tokens, "maxTokens": told.output_tokens}
    options = {_CONTINUE_NAMES[name]: value for name, value in told.options}
    return {
        "name": told.title,
        "provider": "openai",
        "model": told.model_id,
        "apiBase": gateway.base_url,
        "apiKey": gateway.key_or_placeholder,
        "roles": ["chat", "edit", "apply"],
        "capabilities": [name for name, has in able.items() if has],
        "defaultCompletionOptions": {
            **{name: value for name, value in completion.items() if value is not None},
            **options,
        },
        "requestOptions": {"timeout": _TIMEOUT_S * 1000},
    }


_CONTINUE_NAMES = {"temperature": "temperature", "top_p": "topP", "top_k": "topK", "min_p": "minP"}


def _env(choice: Choice, gateway: Gateway) -> str:
    key = gateway.key_or_placeholder
    variables = {
        "OPENAI_BASE_URL": gateway.base_url,
        "OPENAI_API_KEY": key,
        "OPENAI_MODEL": choice.main.model_id,
        "ANTHROPIC_BASE_URL": gateway.url,
        "ANTHROPIC_API_KEY": key,
        "ANTHROPIC_MODEL": choice.main.model_id,
    }
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


_RENDERERS = {
    Target.OPENCODE: _opencode,
    Target.CLINE: _cline,
    Target.OPENWEBUI: _openwebui,
    Target.CONTINUE: _continue,
    Target.ENV: _env,
}
