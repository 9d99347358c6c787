# SPDX-License-Identifier: Apache-2.0
"""Rules between the keys of one catalog entry; `core.config.model_keys` has each key alone.

A mistake is reported at the entry's place, and no code repairs it.
"""

from __future__ import annotations

from dataclasses import replace

from sparkd.core.config.model_subkeys import MAX_TOKENS
from sparkd.core.config.yaml_nodes import Place
from sparkd.core.engine.arguments import option_value, reserved_option, written_option
from sparkd.core.errors import RequestError
from sparkd.core.model import (
    Dialect,
    Evict,
    Lifecycle,
    ModelSpec,
    Placeholder,
    Rewrite,
    Status,
    Transport,
)
from sparkd.core.names import check_model_id
from sparkd.core.numbers import bounded_int

_CONTEXT_OPTION, _CONTEXT_SHORTEST = "max-model-len", "max-m"
"""vLLM has no other option that begins like the second one."""


def check_entry(spec: ModelSpec, place: Place) -> ModelSpec:
    """Report all that is wrong with it; the entry, with the context window that its args say."""
    spec = _with_context_window(spec, place)
    for alias in spec.aliases:
        is_model_id(alias.replace("*", "x"), place)
    _check_adapters(spec, place)
    _check_rewriting(spec, place)
    _check_standing(spec, place)
    _check_engine(spec, place)
    _check_sleep(spec, place)
    return spec


def is_model_id(model_id: str, place: Place) -> bool:
    """Whether a model may have that name; if not, that is reported."""
    try:
        check_model_id(model_id)
    except RequestError as error:
        place.report(error.message, error.hint)
        return False
    return True


def _with_context_window(spec: ModelSpec, place: Place) -> ModelSpec:
    """The window that clients are told must be the one that the server is started with."""
    text = option_value(spec.args, _CONTEXT_OPTION, _CONTEXT_SHORTEST) or ""
    served = bounded_int(text, least=1, most=MAX_TOKENS)
    if served is None:
        return spec
    if spec.max_model_len is None:
        return replace(spec, max_model_len=served)
    if spec.max_model_len != served:
        place.report(
            f"max_model_len is {spec.max_model_len}, but args say --max-model-len {served}",
            "leave max_model_len out, it follows args",
        )
    return spec


_CAPS = frozenset({Rewrite.CAP_TOKENS, Rewrite.CAP_TOKENS_BY_ESTIMATE})


def _check_rewriting(spec: ModelSpec, place: Place) -> None:
    """Rules that need something else, or that undo each other, are mistakes."""
    rules, window, buffer = set(spec.rewrite), spec.max_model_len, spec.context_buffer_tokens
    caps = [rule for rule in spec.rewrite if rule in _CAPS]
    if caps and window is None:
        place.report(f"{caps[0]} needs the context window", "add max_model_len: TOKENS")
    if len(caps) > 1:
        place.report("cap_tokens and cap_tokens_by_estimate are two ways", "keep one of the two")
    if buffer is not None and Rewrite.CAP_TOKENS_BY_ESTIMATE not in rules:
        place.report(
            "context_buffer without cap_tokens_by_estimate says nothing",
            "leave it out; cap_tokens needs no buffer",
        )
    if buffer is not None and window is not None and buffer >= window:
        place.report(f"context_buffer {buffer} leaves nothing of {window} tokens", "make it less")
    if {Rewrite.STRIP_TOOLS, Rewrite.FORCE_TOOLS} <= rules:
        place.report("strip_tools and force_tools undo each other", "keep one of the two")


def _check_standing(spec: ModelSpec, place: Place) -> None:
    """What clients are told must be true, and a model that is held back says why."""
    if spec.status in (Status.MANUAL, Status.DISABLED) and not spec.reason:
        place.report(f"it is {spec.status} without a reason", "add reason: WHY")
    window = spec.max_model_len
    for client, limits in spec.clients:
        context = limits.context_tokens or window
        if context is None:
            continue
        if window is not None and context > window:
            place.report(
                f"client {client} is told {context} tokens, the context window has {window}",
                "make its context less",
            )
        if limits.output_tokens is not None and limits.output_tokens >= context:
            place.report(
                f"client {client} may ask for {limits.output_tokens} of {context} tokens",
                "make its output less",
            )


def _check_adapters(spec: ModelSpec, place: Place) -> None:
    """Adapters have ids as models have, and are a thing of vLLM."""
    for adapter in spec.adapters:
        is_model_id(adapter.name, place)
    if spec.adapters and spec.engine is not None:
        place.report(
            "adapters need vLLM, and engine is another server",
            "leave adapters out, and name them in the command of engine",
        )
    options = (written_option(word) for word in spec.args if spec.adapters)
    for option in options:
        if option is not None and reserved_option(option, ("enable-lora",)):
            place.report(f"{option!r} is decided by sparkd: the entry has adapters", "leave it out")


def _check_engine(spec: ModelSpec, place: Place) -> None:
    """The command of another server must say where it listens."""
    if spec.engine is None:
        return
    tcp = spec.transport is Transport.TCP
    needed = Placeholder.PORT if tcp else Placeholder.SOCKET
    if not any(needed in word for word in spec.engine.command):
        place.report(
            f"the command of engine lacks {needed}",
            f"say where it listens, or transport: {Transport.UNIX if tcp else Transport.TCP}",
        )


def _check_sleep(spec: ModelSpec, place: Place) -> None:
    """Sleep is a thing of vLLM, and a wake is checked by an answer."""
    if spec.evict is not Evict.SLEEP:
        return
    if spec.engine is not None:
        place.report("evict: sleep needs vLLM, and engine is another server", "evict: stop")
    if spec.lifecycle is not Lifecycle.NORMAL:
        place.report(
            f"evict: sleep is for normal models that take turns, this one is {spec.lifecycle}",
            "evict: stop",
        )
    if not {Dialect.CHAT, Dialect.COMPLETIONS} & set(spec.dialects):
        place.report("evict: sleep needs a model that generates text", "evict: stop")
