# SPDX-License-Identifier: Apache-2.0
"""`/v1/models` in the form of the client that asks: OpenAI's, or Anthropic's with its pages.

Anthropic's form adds fields to the cards of OpenAI's and takes none away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparkd.core.errors import RequestError
from sparkd.core.numbers import bounded_int

LIMIT_MOST = 1000
_CREATED_AT = "1970-01-01T00:00:00Z"
"""Clients want the field, and no file says when a model was made."""

Card = Mapping[str, object]


def is_anthropics(headers: Mapping[str, str]) -> bool:
    return "anthropic-version" in headers


def shown(card: Card, *, anthropic: bool) -> Card:
    """One model."""
    if not anthropic:
        return card
    return {**card, "type": "model", "display_name": card["title"], "created_at": _CREATED_AT}


def listing(cards: Sequence[Card], query: Mapping[str, str], *, anthropic: bool) -> Card:
    """The whole list; in Anthropic's form the page that `limit`, `after_id`, `before_id` name.

    Raises RequestError.
    """
    if not anthropic:
        return {"object": "list", "data": list(cards)}
    ids = [str(card["id"]) for card in cards]
    after, before = _place(ids, query, "after_id"), _place(ids, query, "before_id")
    start = 0 if after is None else after + 1
    end = len(cards) if before is None else before
    limit = _limit(query)
    page = cards[max(start, end - limit) : end] if before is not None else cards[start:end][:limit]
    data = [shown(card, anthropic=True) for card in page]
    return {
        "object": "list",
        "data": data,
        "has_more": len(data) < max(0, end - start),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _place(ids: Sequence[str], query: Mapping[str, str], name: str) -> int | None:
    wanted = query.get(name)
    if wanted is None:
        return None
    if wanted in ids:
        return ids.index(wanted)
    raise RequestError(
        f"{name}={wanted[:80]!r} is not in the list", hint="GET /v1/models", param=name
    )


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(LIMIT_MOST))
    limit = bounded_int(text, least=1, most=LIMIT_MOST)
    if limit is None:
        raise RequestError(
            f"limit={text[:40]!r} is not a number from 1 to {LIMIT_MOST}",
            hint="GET /v1/models?limit=20",
            param="limit",
        )
    return limit
