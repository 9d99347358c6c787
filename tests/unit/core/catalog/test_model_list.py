# SPDX-License-Identifier: Apache-2.0
"""The list of models in both forms: Anthropic's adds fields and pages, OpenAI's stays as it is."""

from __future__ import annotations

import pytest

from sparkd.core.catalog.cards import card
from sparkd.core.catalog.model_list import listing, shown
from sparkd.core.errors import RequestError
from sparkd.core.model import ModelSpec

CARDS = [{"id": name, "object": "model", "title": name.upper()} for name in ("a", "b", "c", "d")]


def page(**query: str) -> tuple[list[str], object]:
    listed = listing(CARDS, query, anthropic=True)
    data = listed["data"]
    assert isinstance(data, list)
    ids = [one["id"] for one in data]
    assert (listed["first_id"], listed["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    return ids, listed["has_more"]


def test_openais_form_knows_no_pages() -> None:
    query = {"limit": "1", "after_id": "nobody"}
    assert listing(CARDS, query, anthropic=False) == {"object": "list", "data": CARDS}


def test_anthropics_form_adds_its_fields_and_takes_none_away() -> None:
    spec = ModelSpec(model_id="m", image="i", title="Model M")
    plain = card(spec, "ready", ())
    both = shown(plain, anthropic=True)
    assert plain.items() <= both.items()
    assert (both["type"], both["display_name"]) == ("model", "Model M")
    assert both["created_at"] == "1970-01-01T00:00:00Z"
    assert shown(plain, anthropic=False) is plain


def test_pages_of_anthropics_form() -> None:
    assert page() == (["a", "b", "c", "d"], False)
    assert page(limit="1000") == (["a", "b", "c", "d"], False)
    assert page(limit="3") == (["a", "b", "c"], True)
    assert page(limit="3", after_id="c") == (["d"], False)
    assert page(after_id="d") == ([], False)
    assert page(limit="2", before_id="d") == (["b", "c"], True)
    assert page(limit="3", before_id="d") == (["a", "b", "c"], False)
    assert page(before_id="a") == ([], False)
    assert page(after_id="a", before_id="d") == (["b", "c"], False)


@pytest.mark.parametrize(
    "query",
    [{"limit": bad} for bad in ("0", "1001", "-1", "x", "1e3", "\u0661", "9" * 5000)]
    + [{"after_id": "nobody"}, {"before_id": ""}],
)
def test_page_that_there_is_not_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(RequestError):
        listing(CARDS, query, anthropic=True)
