# SPDX-License-Identifier: Apache-2.0
"""`sparkctl smoke`: one request of each kind through the gateway, with the models on this host.

A request that cannot be tried is skipped with the reason, unless its model was named: then it
failed. A run in which nothing was tried is not one that passed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sparkd.core.errors import SparkdError
from sparkd.core.model import Config, Dialect, Lifecycle, ModelSpec, Status, WhenBusy
from sparkd.core.quantities import count_of
from sparkd.sparkctl import catalog, gateway_address, output, privileges, progress
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

if TYPE_CHECKING:
    from sparkd.adapters.gateway_client import Gateway, Reply

_PATH = "/v1/chat/completions"
_TIMEOUT_S = 1800.0
"""The timeout of one row: a large model's load, and the end of the models that make room."""
_TOOLS_ARG = "--enable-auto-tool-choice"
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}},
            "required": ["place"],
        },
    },
}
_HEADER = ("ROW", "MODEL", "RESULT", "SECONDS", "")


class UnfitError(Exception):
    """An answer that does not let a row pass."""


class Result(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one kind of request."""

    row: str
    model: str | None
    result: Result
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Kind:
    """The models that a row can be tried with, and the request that they get."""

    fits: Callable[[ModelSpec], bool]
    what: str
    body: Mapping[str, object]


def _said(content: object, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 64, **fields}


KINDS = {
    "utility": Kind(
        lambda spec: spec.lifecycle is Lifecycle.UTILITY, "is a utility", _said("Say hello.")
    ),
    "default": Kind(
        lambda spec: spec.lifecycle is not Lifecycle.UTILITY,
        "is not a utility",
        _said("What is the capital of France?"),
    ),
    "vision": Kind(
        lambda spec: spec.vision,
        "takes pictures",
        _said(
            [
                {"type": "text", "text": "What colour is this?"},
                {"type": "image_url", "image_url": {"url": _PIXEL}},
            ]
        ),
    ),
    "coder": Kind(
        lambda spec: _TOOLS_ARG in spec.args,
        f"has {_TOOLS_ARG}",
        _said("What is the weather in Paris? Use the tool.", tools=[_TOOL], max_tokens=256),
    ),
}
"""All rows except the last, which needs two models."""


def run(options: Options) -> Exit:
    url, key = gateway_address.url(), gateway_address.key(options.words)
    privileges.act_as_sparkd(options.words)
    config = catalog.load()
    given = {name: getattr(options, name) for name in KINDS}
    named = {name: catalog.find(config, model) for name, model in given.items() if model}
    rows = progress.run_quietly(_run(config, named, url, key))
    if options.json:
        output.print_json([asdict(row) for row in rows])
    else:
        print(text(rows))
    passed = any(row.result is Result.PASSED for row in rows)
    failed = any(row.result is Result.FAILED for row in rows)
    return Exit.OK if passed and not failed else Exit.NO


def text(rows: Sequence[Row]) -> str:
    cells = [
        (
            row.row,
            row.model or output.NOTHING,
            row.result,
            f"{row.seconds:.1f}" if row.seconds else output.NOTHING,
            output.printable(row.why),
        )
        for row in rows
    ]
    return output.table(_HEADER, cells)


async def _run(config: Config, named: Mapping[str, ModelSpec], url: str, key: str) -> list[Row]:
    from sparkd.adapters.gateway_client import Gateway

    rows: list[Row] = []
    here: dict[str, ModelSpec] = {}
    async with Gateway(url, key) as client:
        for name, kind in KINDS.items():
            spec, lacking = await _choose(config, kind, named.get(name))
            if spec is None:
                rows.append(_untried(name, lacking, named.get(name)))
                continue
            row = await _timed(name, spec, _ask(client, spec, kind.body))
            rows.append(row)
            if row.result is Result.PASSED:
                here[name] = spec
            await _make_way(config, spec)
        rows.append(await _busy_row(config, client, here))
    return rows


async def _choose(
    config: Config, kind: Kind, named: ModelSpec | None
) -> tuple[ModelSpec | None, str]:
    """A startable model, with proven ones first, or None and the reason."""
    fitting = [
        spec
        for spec in config.models.values()
        if kind.fits(spec)
        and Dialect.CHAT in spec.dialects
        and spec.status in (Status.VALIDATED, Status.EXPERIMENTAL)
    ]
    candidates = [named] if named else sorted(fitting, key=lambda s: s.status != Status.VALIDATED)
    lacking = ""
    for spec in candidates:
        missing = await _missing(spec)
        if missing is None:
            return spec, ""
        lacking = lacking or missing
    if not candidates:
        return None, f"no model of the catalog {kind.what}"
    others = len(candidates) - 1
    return None, lacking + (f", and nor can {count_of(others, 'other')}" if others else "")


async def _missing(spec: ModelSpec) -> str | None:
    """The reason why a model cannot start here, or None."""
    from sparkd.core.catalog.presence import refusal
    from sparkd.runtime import build

    missing = await build().presence.missing(spec)
    return refusal(spec.model_id, missing).message if missing else None


async def _make_way(config: Config, spec: ModelSpec) -> None:
    """Clear the way with `busy: reject`: a loaded model, idle or not, blocks the next one."""
    from sparkd.runtime import build

    if config.settings.busy is WhenBusy.REJECT and spec.lifecycle is not Lifecycle.UTILITY:
        await build().stopper.stop(config, spec.model_id, drain=True)


def _untried(name: str, why: str, named: ModelSpec | None = None) -> Row:
    """The row that cannot be tried; it fails if the user named its model."""
    model, result = (named.model_id, Result.FAILED) if named else (None, Result.SKIPPED)
    return Row(row=name, model=model, result=result, seconds=0.0, why=why)


async def _timed(name: str, spec: ModelSpec, work: Coroutine[Any, Any, str]) -> Row:
    """The row of a piece of work, which returns its observation or raises."""
    print(f"{name}: {spec.model_id}", file=sys.stderr, flush=True)
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            result, why = Result.PASSED, await work
    except TimeoutError:
        result, why = Result.FAILED, f"nothing within {_TIMEOUT_S:g} s"
    except UnfitError as error:
        result, why = Result.FAILED, str(error)
    except SparkdError as error:
        result, why = Result.FAILED, f"{error.code}: {error.message}"
    seconds = round(time.monotonic() - began_s, 3)
    return Row(row=name, model=spec.model_id, result=result, seconds=seconds, why=why)


async def _ask(client: Gateway, spec: ModelSpec, body: Mapping[str, object]) -> str:
    return _seen(await client.ask(_PATH, {"model": spec.model_id, **body}))


def _seen(reply: Reply) -> str:
    """A short description of an answer. Raises its error, or UnfitError for an empty answer."""
    from sparkd.adapters.gateway_client import error_of

    if reply.status != 200:
        raise error_of(reply.status, reply.body)
    choices = reply.body.get("choices") or [{}]
    message = choices[0].get("message") or {}
    calls = message.get("tool_calls") or []
    if calls:
        return f"calls {calls[0]['function']['name']}"
    words = message.get("content") or message.get("reasoning") or message.get("reasoning_content")
    if not words:
        raise UnfitError("the answer is empty")
    return "answers"


async def _busy_row(config: Config, client: Gateway, here: Mapping[str, ModelSpec]) -> Row:
    holder = here.get("default")
    other = None
    if holder is not None:
        kind = Kind(
            lambda spec: KINDS["default"].fits(spec) and spec.model_id != holder.model_id, "", {}
        )
        known = [
            here[name] for name in ("coder", "vision") if name in here and kind.fits(here[name])
        ]
        other = known[0] if known else (await _choose(config, kind, None))[0]
    if holder is None or other is None:
        return _untried("busy", "needs two models that cannot run beside each other")
    return await _timed("busy", other, _ask_while_busy(config, client, holder, other))


async def _ask_while_busy(
    config: Config, client: Gateway, holder: ModelSpec, other: ModelSpec
) -> str:
    """Ask one model while another answers.

    The request is refused or waits, as `busy` says; the running answer arrives whole either way.
    """
    body = {"model": holder.model_id, **_said("Count from one to a hundred.", max_tokens=512)}
    asked: asyncio.Task[Reply] | None = None
    after = 0
    async with client.stream(_PATH, body) as stream:
        async for item in stream.items():
            if item.is_comment or not _has_text(item.text):
                continue
            if asked is None:
                question = {"model": other.model_id, **_said("Say hello.")}
                asked = asyncio.create_task(client.ask(_PATH, question))
            else:
                after += 1
    if asked is None or not after:
        raise UnfitError(f"{holder.model_id} answered too shortly")
    reply = await asked
    if config.settings.busy is WhenBusy.WAIT:
        return f"waited for {holder.model_id}, then {_seen(reply)}"
    if reply.status != 429 or not reply.headers.get("retry-after"):
        raise UnfitError(f"429 with retry-after was due, {reply.status} came")
    return f"refused while {holder.model_id} answers, retry-after {reply.headers['retry-after']} s"


def _has_text(event: str) -> bool:
    choices = json.loads(event).get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    return bool(delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content"))
