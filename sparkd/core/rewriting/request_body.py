# SPDX-License-Identifier: Apache-2.0
"""The JSON body of a request: the parts that the gateway reads, and the body for the engine.

Owns the order of reading, choosing the model and rewriting. A large body is read by its skeleton,
so that its long strings are never parsed or copied. Pure, and safe to run in a thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sparkd.core.catalog.lookup import Meant
from sparkd.core.errors import RequestError
from sparkd.core.http.multipart import Form
from sparkd.core.json import lossless, skeleton
from sparkd.core.json.spliced import Payload, Raw, Spliced
from sparkd.core.model import Dialect
from sparkd.core.rewriting.rules import rewrite

LARGE_BYTES: Final = 64 << 10
"""A smaller body takes less than 5 ms whatever is in it."""

Choose = Callable[[dict[str, Any]], Meant]
"""The model for a body with these fields. Raises what refuses the request."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request for the engine."""

    meant: Meant
    streams: bool
    payload: Payload


def prepare(raw: Raw, nonce: str, choose: Choose, dialect: Dialect | None) -> Prepared:
    """Read a body, choose its model, and rewrite it by the rules of the model.

    Without a dialect no rule applies. Raises RequestError, and what `choose` raises.
    """
    if len(raw) <= LARGE_BYTES:
        return _prepared(raw, parse_body(raw), choose, dialect)
    try:
        bones = skeleton.cut(raw, nonce)
    except json.JSONDecodeError as error:
        raise _not_json(error.msg) from None
    except ValueError as error:
        raise _not_json(str(error)) from None
    body = parse_body(bones.text, yielding=True)
    if isinstance(body.get("model"), str):
        body["model"] = bones.beginning(body["model"])
    made = _prepared(bones.text, body, choose, dialect)
    same = made.payload is bones.text
    assert isinstance(made.payload, bytes)
    payload = Spliced([raw]) if same else bones.restored(made.payload)
    return Prepared(made.meant, made.streams, payload)


def prepare_form(raw: Raw, content_type: str, choose: Choose) -> Prepared:
    """Read a form and choose its model. Raises RequestError, and what `choose` raises."""
    form = Form(raw, content_type)
    meant = choose({"model": form.text("model")})
    payload = form.with_text("model", meant.name)
    return Prepared(meant, form.text("stream") == "true", payload)


def _prepared(raw: Raw, body: dict[str, Any], choose: Choose, dialect: Dialect | None) -> Prepared:
    try:
        meant = choose(body)
        rewritten = body if dialect is None else rewrite(meant.spec, dialect, body)
    except RecursionError:
        raise _too_deep() from None
    payload = upstream_body(raw, body, meant.name, rewritten)
    return Prepared(meant, body.get("stream") is True, payload)


def parse_body(raw: Raw, *, yielding: bool = False) -> dict[str, Any]:
    """The JSON object of a body. Raises RequestError."""
    try:
        body = lossless.parse(raw, yielding=yielding)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _not_json(reason) from None
    if not isinstance(body, dict):
        raise RequestError(
            f"the body is a JSON {type(body).__name__}, not an object",
            hint="send a JSON object with a 'model'",
            code="invalid_json",
        )
    return body


def _not_json(reason: str) -> RequestError:
    return RequestError(
        f"the body is not JSON: {reason}",
        hint="send a JSON object with a 'model'",
        code="invalid_json",
    )


def upstream_body(
    raw: Raw,
    body: dict[str, Any],
    model_id: str,
    rewritten: dict[str, Any] | None = None,
) -> Raw:
    """The body for the engine: as it came, unless it was rewritten or the path named the model.

    Raises RequestError when what was changed is nested too deeply.
    """
    changed = body if rewritten is None else rewritten
    if changed.get("model") != model_id:
        changed = {**changed, "model": model_id}
    if changed is body:
        return raw
    try:
        return lossless.write(changed, body)
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> RequestError:
    return RequestError(
        "the body is nested too deeply", hint="send a flatter one", code="invalid_json"
    )
