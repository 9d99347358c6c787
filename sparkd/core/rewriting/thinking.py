# SPDX-License-Identifier: Apache-2.0
"""The thinking switch of a model: from the fields of clients to the fields of templates.

Owns `chat_template_kwargs` with its two keys (templates of different families read one or the
other) and the fields in which clients ask for thinking. An explicit key always wins.
"""

from __future__ import annotations

from typing import Any

from sparkd.core.model import Dialect, ModelSpec

KEYS = ("enable_thinking", "thinking")
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max", "auto"})

_KWARGS = "chat_template_kwargs"
_EFFORT_FIELDS = ("reasoning_effort", "reasoningEffort")


def move_flag(_spec: ModelSpec, _dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """`thinking: true` or `false` beside the messages goes where the template sees it."""
    flag = body.get("thinking")
    if not isinstance(flag, bool):
        return body
    kwargs = _kwargs(body)
    said = {key: flag for key in KEYS if kwargs.get(key) is None}
    rest = {key: value for key, value in body.items() if key != "thinking"}
    return {**rest, _KWARGS: {**kwargs, **said}}


def reduce_effort(_spec: ModelSpec, _dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """An effort becomes on or off, for models that know nothing in between."""
    effort = _effort(body)
    if not effort:
        return body
    rest = _without_effort(body)
    if effort not in EFFORTS or _is_decided(body):
        return rest
    return {**rest, _KWARGS: {**_kwargs(body), **dict.fromkeys(KEYS, effort != "none")}}


def default_to_none(_spec: ModelSpec, dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    """Without thinking, unless the client has said otherwise in the way of its dialect."""
    if _is_decided(body) or (dialect is not Dialect.CHAT and _is_asked_for(body)):
        return body
    return {**body, _KWARGS: {**_kwargs(body), **dict.fromkeys(KEYS, False)}}


def _kwargs(body: dict[str, Any]) -> dict[str, Any]:
    kwargs = body.get(_KWARGS)
    return kwargs if isinstance(kwargs, dict) else {}


def _is_decided(body: dict[str, Any]) -> bool:
    # A key that is null counts: the client wrote it.
    return any(key in _kwargs(body) for key in KEYS)


def _is_asked_for(body: dict[str, Any]) -> bool:
    """Whether the engine itself will turn thinking on, by `reasoning` or Anthropic's `thinking`."""
    reasoning, thinking = body.get("reasoning"), body.get("thinking")
    if isinstance(reasoning, dict) and reasoning.get("effort") is not None:
        return True
    return isinstance(thinking, dict) and thinking.get("type") != "disabled"


def _effort(body: dict[str, Any]) -> str:
    """The first effort that is given, in small letters; empty when there is none."""
    reasoning = body.get("reasoning")
    nested = reasoning.get("effort") if isinstance(reasoning, dict) else None
    given = [*(body.get(field) for field in _EFFORT_FIELDS), nested]
    efforts = (one.strip().lower() for one in given if isinstance(one, str))
    return next((effort for effort in efforts if effort), "")


def _without_effort(body: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in body.items() if key not in _EFFORT_FIELDS}
    reasoning = rest.get("reasoning")
    if isinstance(reasoning, dict) and "effort" in reasoning:
        kept = {key: value for key, value in reasoning.items() if key != "effort"}
        rest["reasoning"] = kept
        if not kept:
            del rest["reasoning"]
    return rest
