# SPDX-License-Identifier: Apache-2.0
"""What /v1/models says of a model: what OpenAI's clients read, and what is true of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparkd.core.catalog.cards import capabilities, card, cards
from sparkd.core.catalog.presence import Missing, Part
from sparkd.core.model import Adapter, Dialect, ModelSpec, Rewrite, Weights

CHAT = (Dialect.CHAT,)


def test_card_has_the_fields_of_openai_and_the_state() -> None:
    spec = ModelSpec(model_id="m", image="i", max_model_len=8192, aliases=("n",))
    shown = card(spec, "ready", ())
    assert (shown["id"], shown["object"], shown["owned_by"]) == ("m", "model", "sparkd")
    assert isinstance(shown["created"], int)
    assert (shown["max_model_len"], shown["state"], shown["aliases"]) == (8192, "ready", ["n"])
    assert card(spec, None, ())["state"] is None


def test_card_says_what_is_missing_on_the_host() -> None:
    spec = ModelSpec(model_id="m", image="i")
    lacking = Missing(part=Part.IMAGE, code="image_missing", text="its image", hint="build it")
    shown = card(spec, "stopped", (lacking,))
    assert shown["present"] is False
    assert shown["missing"] == [{"what": "image", "code": "image_missing", "hint": "build it"}]
    assert card(spec, "stopped", ())["present"] is True


@pytest.mark.parametrize(
    ("fields", "able"),
    [
        ({"dialects": CHAT}, {"chat"}),
        ({"dialects": CHAT, "args": ("--enable-auto-tool-choice",)}, {"chat", "tools"}),
        (
            {
                "dialects": CHAT,
                "args": ("--enable-auto-tool-choice",),
                "rewrite": (Rewrite.STRIP_TOOLS,),
            },
            {"chat"},
        ),
        ({"dialects": CHAT, "args": ("--reasoning-parser", "x")}, {"chat", "reasoning"}),
        ({"dialects": CHAT, "vision": True}, {"chat", "vision"}),
        ({"dialects": (Dialect.EMBEDDINGS,)}, {"embeddings"}),
        ({"dialects": (Dialect.TRANSCRIPTIONS,)}, {"transcriptions"}),
        ({"dialects": (Dialect.MESSAGES,)}, {"chat"}),
    ],
)
def test_capabilities_follow_from_the_entry(fields: dict[str, Any], able: set[str]) -> None:
    found = capabilities(ModelSpec(model_id="m", image="i", **fields))
    assert {name for name, can in found.items() if can} == able


def test_adapter_is_listed_behind_its_model_with_its_parent() -> None:
    adapter = Adapter(name="sql", weights=Weights(path=Path("/a")))
    spec = ModelSpec(model_id="m", image="i", aliases=("x",), adapters=(adapter,))
    own, sql = cards(spec, "ready", ())
    assert (own["id"], "parent" in own) == ("m", False)
    assert (sql["id"], sql["parent"], sql["aliases"]) == ("sql", "m", [])
    assert (sql["state"], sql["present"]) == ("ready", True)
