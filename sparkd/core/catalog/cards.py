# SPDX-License-Identifier: Apache-2.0
"""A model as `/v1/models` shows it: OpenAI's fields, and facts for clients that choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparkd.core.catalog.presence import Missing, described
from sparkd.core.clients.programs import calls_tools, reasons
from sparkd.core.model import Adapter, Dialect, ModelSpec


def card(spec: ModelSpec, state: str | None, missing: Sequence[Missing]) -> dict[str, object]:
    """All there is to say; `state` is a word of `status`, or None where it could not be read."""
    return {
        "id": spec.model_id,
        "object": "model",
        # Clients want the field, and no file says when a model was made.
        "created": 0,
        "owned_by": "sparkd",
        "max_model_len": spec.max_model_len,
        "state": state,
        "present": not missing,
        "missing": described(missing),
        "status": spec.status,
        "lifecycle": spec.lifecycle,
        "aliases": list(spec.aliases),
        "title": spec.title or spec.model_id,
        "description": spec.description,
        "dialects": list(spec.dialects),
        "capabilities": capabilities(spec),
    }


def cards(
    spec: ModelSpec, state: str | None, missing: Sequence[Missing]
) -> list[dict[str, object]]:
    """The model, then its adapters."""
    own = card(spec, state, missing)
    return [own, *(adapter_card(adapter, own) for adapter in spec.adapters)]


def adapter_card(adapter: Adapter, parent: Mapping[str, object]) -> dict[str, object]:
    """A LoRA adapter: all that holds for its model, and the model as `parent`, as vLLM has it."""
    return {
        **parent,
        "id": adapter.name,
        "parent": parent["id"],
        "aliases": [],
        "title": adapter.name,
        "description": f"LoRA adapter of {parent['id']}",
    }


def capabilities(spec: ModelSpec) -> dict[str, bool]:
    """What the model can do; what it speaks is its `dialects`."""
    chats = any(one in spec.dialects for one in (Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES))
    return {
        "chat": chats,
        "tools": chats and calls_tools(spec),
        "reasoning": chats and reasons(spec),
        "vision": spec.vision,
        "embeddings": Dialect.EMBEDDINGS in spec.dialects,
        "transcriptions": Dialect.TRANSCRIPTIONS in spec.dialects,
    }
