# SPDX-License-Identifier: Apache-2.0
"""`sparkctl soak`: the longest context that a model takes with several requests at once, by trying.

It sends requests through the gateway, tier by tier up to the first failure. It stores the result
in the state directory and prints the consequences for the catalog.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sparkd.core.clients.soak import (
    Attempt,
    Calibration,
    Report,
    Tier,
    as_json,
    prompt,
    shortfall,
    suggestion,
    tiers_of,
)
from sparkd.core.errors import HostError, RequestError, SparkdError
from sparkd.core.model import ModelSpec
from sparkd.core.names import Layout, Names
from sparkd.core.quantities import readable_size
from sparkd.sparkctl import catalog, gateway_address, output, privileges, progress
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

if TYPE_CHECKING:
    from sparkd.adapters.gateway_client import Gateway

_PATH = "/v1/chat/completions"
_CALIBRATION_PAGES = (4, 40)
_REQUEST_TIMEOUT_S = 3600.0
"""The request timeout: a full context on a slow machine takes minutes; an hour means a hang."""
_MEMORY_INTERVAL_S = 0.5
_CONCURRENCY, _ANSWER_TOKENS = 5, 256
_MODE = 0o640


def run(options: Options) -> Exit:
    url, key = gateway_address.url(), gateway_address.key(options.words)
    privileges.act_as_sparkd(options.words)
    spec, layout = catalog.find(catalog.load(), options.model), catalog.layout()
    answer_tokens = options.answer or _ANSWER_TOKENS
    soak = Soak(spec, url, key, options.concurrency or _CONCURRENCY, answer_tokens)
    report = progress.run_quietly(soak.run(_tiers(spec, options, answer_tokens)))
    value = {"at": output.timestamp(time.time()), **as_json(report)}
    path = _keep(layout, spec, value)
    if options.json:
        output.print_json(value)
    else:
        print(f"{spec.model_id}: {suggestion(report)}", f"kept in {path}", sep="\n")
    return Exit.OK if report.first_failing is None else Exit.NO


def _tiers(spec: ModelSpec, options: Options, answer_tokens: int) -> tuple[int, ...]:
    if options.tiers:
        return tuple(sorted(options.tiers))
    if spec.max_model_len is None:
        raise RequestError(
            f"the entry of {spec.model_id!r} does not say how long its context is",
            hint=f"sudo sparkctl soak {spec.model_id} --tiers 8192,16384",
        )
    return tiers_of(spec.max_model_len, answer_tokens)


@dataclass(frozen=True, slots=True)
class Soak:
    spec: ModelSpec
    url: str
    key: str
    concurrency: int
    answer_tokens: int

    async def run(self, tiers: tuple[int, ...]) -> Report:
        """Try tier after tier, up to the first that is not clean, and return the report."""
        from sparkd.adapters.gateway_client import Gateway
        from sparkd.core.container.spec import spec_hash

        done: list[Tier] = []
        async with Gateway(self.url, self.key) as client:
            _say(f"calibrate {self.spec.model_id}, which starts if it must")
            calibration = await self._calibrate(client)
            for tokens in tiers:
                tier = await self._try(client, calibration, tokens)
                done.append(tier)
                _say(_tier_text(tier))
                if tier.problem is not None:
                    break
        return Report(
            model_id=self.spec.model_id,
            spec_hash=spec_hash(self.spec, catalog.layout()),
            window=self.spec.max_model_len,
            concurrency=self.concurrency,
            answer_tokens=self.answer_tokens,
            tiers=tuple(done),
        )

    async def _calibrate(self, client: Gateway) -> Calibration:
        counted = []
        for pages in _CALIBRATION_PAGES:
            usage = await self._ask(client, prompt(pages, _salt(0, 0)), 1)
            counted.append((pages, int(usage.get("prompt_tokens") or 0)))
        return Calibration.of(*counted)

    async def _try(self, client: Gateway, calibration: Calibration, tokens: int) -> Tier:
        pages = calibration.pages(tokens)
        async with _least_available() as least:
            attempts = await asyncio.gather(
                *(
                    self._attempt(client, prompt(pages, _salt(tokens, number)), tokens)
                    for number in range(self.concurrency)
                )
            )
        return Tier(tokens=tokens, attempts=tuple(attempts), least_available_bytes=min(least))

    async def _attempt(self, client: Gateway, text: str, tokens: int) -> Attempt:
        began_s = time.monotonic()
        usage: dict[str, Any] = {}
        problem = None
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                usage = await self._ask(client, text, self.answer_tokens)
        except TimeoutError:
            problem = f"no answer within {_REQUEST_TIMEOUT_S:g} s"
        except SparkdError as error:
            problem = f"{error.code}: {error.message}"
        attempt = Attempt(
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            seconds=time.monotonic() - began_s,
            problem=problem,
        )
        if problem is None and (short := shortfall(tokens, attempt)):
            return replace(attempt, problem=short)
        return attempt

    async def _ask(self, client: Gateway, text: str, answer_tokens: int) -> dict[str, Any]:
        """The usage of a whole answer. Raises the error that came instead of one."""
        body: dict[str, object] = {
            "model": self.spec.model_id,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": answer_tokens,
            "temperature": 0,
            "stream_options": {"include_usage": True},
        }
        usage: dict[str, Any] = {}
        # A stream, so that a client that gives up, as we may, ends the model's work.
        async with client.stream(_PATH, body) as stream:
            async for item in stream.items():
                if not item.is_comment:
                    usage = json.loads(item.text).get("usage") or usage
        return usage


@contextlib.asynccontextmanager
async def _least_available() -> AsyncIterator[list[int]]:
    """A list to which MemAvailable is added periodically."""
    from sparkd.adapters.proc.memory import MemoryProbe

    probe = MemoryProbe.from_environment()
    seen = [probe.available_bytes()]

    async def look() -> None:
        while True:
            await asyncio.sleep(_MEMORY_INTERVAL_S)
            seen.append(probe.available_bytes())

    task = asyncio.create_task(look())
    try:
        yield seen
    finally:
        task.cancel()


def _salt(tokens: int, number: int) -> str:
    return f"{tokens:07d}-{number:03d}"


def _keep(layout: Layout, spec: ModelSpec, value: dict[str, object]) -> str:
    from sparkd.adapters.files.config_files import write_atomically

    path = layout.soak_file(Names(spec.model_id))
    try:
        path.parent.mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        raise HostError(f"cannot make {path.parent}: {error.strerror}") from error
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode(), mode=_MODE)
    return str(path)


def _tier_text(tier: Tier) -> str:
    least = tier.least_available_bytes
    memory = f", at least {readable_size(least)} of memory available" if least else ""
    result = "clean" if tier.problem is None else output.printable(tier.problem)
    return f"{tier.tokens} tokens x {len(tier.attempts)}: {result}, {tier.seconds:.1f} s{memory}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
