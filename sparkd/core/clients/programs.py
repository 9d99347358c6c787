# SPDX-License-Identifier: Apache-2.0
"""The limits and abilities of a model as clients are configured with them.

Knows no client's configuration format. Whether a model calls tools or reasons is not configured
twice: it follows from what its server is started with.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparkd.core.model import Client, ModelSpec, Rewrite, Status

_OUTPUT_MOST_TOKENS = 8192
_OUTPUT_SHARE = 4
"""Of the context window, where the entry does not say how long an answer may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A model as a client is told about it."""

    model_id: str
    title: str
    context_tokens: int | None
    output_tokens: int | None
    options: tuple[tuple[str, float], ...]
    tools: bool
    reasoning: bool
    vision: bool
    experimental: bool


def is_offered(spec: ModelSpec) -> bool:
    """Whether the model belongs into a ready-made client configuration."""
    return spec.status in (Status.VALIDATED, Status.EXPERIMENTAL)


def offer(spec: ModelSpec, client: Client) -> Offer:
    """What this client is told; what is said for it goes before what is said for all."""
    limits = dict(spec.clients)
    said = [limits[who] for who in (client, Client.ALL) if who in limits]
    contexts = [one.context_tokens for one in said if one.context_tokens is not None]
    outputs = [one.output_tokens for one in said if one.output_tokens is not None]
    context = next(iter(contexts), spec.max_model_len)
    share = min(_OUTPUT_MOST_TOKENS, context // _OUTPUT_SHARE) if context is not None else None
    return Offer(
        model_id=spec.model_id,
        title=spec.title or spec.model_id,
        context_tokens=context,
        output_tokens=next(iter(outputs), share),
        options=next((one.options for one in said if one.options), ()),
        tools=calls_tools(spec),
        reasoning=reasons(spec),
        vision=spec.vision,
        experimental=spec.status is not Status.VALIDATED,
    )


def reasons(spec: ModelSpec) -> bool:
    """Whether its thoughts come apart from its answer."""
    return "--reasoning-parser" in spec.args


def calls_tools(spec: ModelSpec) -> bool:
    """Whether tools that a client offers reach the model, and its calls come back as such."""
    return "--enable-auto-tool-choice" in spec.args and Rewrite.STRIP_TOOLS not in spec.rewrite
