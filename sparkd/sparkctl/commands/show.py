# SPDX-License-Identifier: Apache-2.0
"""`sparkctl show`: the container, memory and rules that result from a catalog entry."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from sparkd.adapters.files.records import Loads, Records
from sparkd.adapters.files.weight_files import WeightsFlaw, layout_flaw
from sparkd.adapters.proc.memory import MemoryProbe
from sparkd.core.clients.programs import offer
from sparkd.core.container.podman_cli import podman_create, public_environment
from sparkd.core.container.spec import ContainerSpec, container_spec, spec_hash
from sparkd.core.model import Adapter, Client, ModelSpec, Transport
from sparkd.core.names import Layout
from sparkd.core.quantities import gib_of
from sparkd.core.scheduling import memory
from sparkd.core.scheduling.memory import HostMemory, Need
from sparkd.sparkctl import catalog, output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

_A_PORT = 40000
"""Stands for the free port that is chosen at each start of a model with `transport: tcp`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A model and all values derived from its entry."""

    spec: ModelSpec
    container: ContainerSpec
    spec_hash: str
    host: HostMemory
    need: Need | None
    loads: Loads
    weights_there: bool | None
    """None for a model without weights."""
    weights_flaw: WeightsFlaw | None = None
    """The reason why no container can read the weights on this host."""


def run(options: Options) -> Exit:
    privileges.read_as_sparkd()
    config = catalog.load()
    spec = catalog.find(config, options.model)
    reserve_bytes = config.settings.memory_reserve_bytes
    host = asyncio.run(MemoryProbe.from_environment().host(reserve_bytes))
    layout = catalog.layout()
    shown = derive(spec, layout, host, Records(layout).loads(spec.model_id))
    if options.json:
        output.print_json(as_json(shown))
    else:
        print(text(shown))
    return Exit.OK


def derive(spec: ModelSpec, layout: Layout, host: HostMemory, loads: Loads) -> Shown:
    """The plan of a start now, if this were the only model."""
    need = memory.need_of(spec, loads.peak_bytes, host)
    extra: tuple[str, ...] = ()
    if spec.auto_utilization and need is not None:
        share = f"{memory.utilization(need.peak_bytes, host):.2f}"
        extra = (memory.UTILIZATION_OPTION, share)
    port = _A_PORT if spec.transport is Transport.TCP else None
    return Shown(
        spec=spec,
        container=container_spec(spec, layout, port=port, extra_args=extra),
        spec_hash=spec_hash(spec, layout),
        host=host,
        need=need,
        loads=loads,
        weights_there=spec.weights.path.is_dir() if spec.weights else None,
        weights_flaw=layout_flaw(spec.weights.path) if spec.weights else None,
    )


def as_json(shown: Shown) -> dict[str, object]:
    spec, need = shown.spec, shown.need
    return {
        "id": spec.model_id,
        "title": spec.title or spec.model_id,
        "description": spec.description,
        "family": spec.family,
        "source": spec.source,
        "status": spec.status,
        "reason": spec.reason or None,
        "facts": list(spec.facts),
        "lifecycle": spec.lifecycle,
        "dialects": list(spec.dialects),
        "max_model_len": spec.max_model_len,
        "image": spec.image,
        "weights": _weights(shown),
        "adapters": [_adapter(adapter) for adapter in spec.adapters],
        "rewrite": list(spec.rewrite),
        "clients": {client: _limits(spec, client) for client in Client},
        "memory": {
            "needs_bytes": need.peak_bytes if need else None,
            "basis": need.basis if need else None,
            "total_bytes": shown.host.total_bytes,
            "available_bytes": shown.host.available_bytes,
            "reserve_bytes": shown.host.reserve_bytes,
            "fits": _fits(shown),
        },
        "loads": {
            "typical_seconds": shown.loads.typical_s,
            "count": len(shown.loads.durations_s),
        },
        "environment": public_environment(shown.container),
        "command": list(shown.container.command),
        "podman": list(podman_create(shown.container)),
        "spec_hash": shown.spec_hash,
    }


def text(shown: Shown) -> str:
    """The rows, then the known facts, then the command with one option per line."""
    spec = shown.spec
    rows = [
        ("model", spec.model_id + (f", {spec.title}" if spec.title else "")),
        ("for", spec.description),
        ("status", f"{spec.status}: {spec.reason}" if spec.reason else str(spec.status)),
        ("entry", spec.source),
        ("image", spec.image),
        ("weights", _weights_text(shown)),
        *(("adapter", _adapter_text(spec, adapter)) for adapter in spec.adapters),
        ("lifecycle", spec.lifecycle),
        ("dialects", ", ".join(spec.dialects)),
        ("context", f"{spec.max_model_len} tokens" if spec.max_model_len else ""),
        ("clients", _clients_text(spec)),
        ("rules", ", ".join(spec.rewrite)),
        ("timeouts", _timeouts_text(shown)),
        ("memory", memory_text(shown)),
        *(("known", fact) for fact in spec.facts),
    ]
    lines = [f"{name:<9}  {output.printable(value)}" for name, value in rows if value]
    return "\n".join([*lines, "", command_text(podman_create(shown.container))])


def memory_text(shown: Shown) -> str:
    """The memory arithmetic of a start, in one line."""
    need, host = shown.need, shown.host
    if need is None:
        return "its need is neither configured nor measured: it starts when no other model does"
    sum_text = f"needs {gib_of(need.peak_bytes)} ({need.basis}"
    if need.basis is memory.Basis.UTILIZATION:
        share = need.peak_bytes / host.total_bytes
        sum_text += f", {share:.2f} of {gib_of(host.total_bytes)}"
    limit = host.total_bytes - host.reserve_bytes
    reserve = f" less {gib_of(host.reserve_bytes)} reserve" if host.reserve_bytes else ""
    gives = f"this host can give {gib_of(limit)}: {gib_of(host.total_bytes)}{reserve}"
    usable = max(0, host.available_bytes - host.reserve_bytes)
    verdict = {
        "never": "it never fits",
        "now": f"{gib_of(usable)} of it now, so it fits",
        "later": f"{gib_of(usable)} of it now, so others have to leave first",
    }[_fits(shown) or "now"]
    return f"{sum_text}); {gives}; {verdict}"


def command_text(words: tuple[str, ...]) -> str:
    """A command for a shell, with one option and its value per line."""
    return " \\\n    ".join(" ".join(map(shlex.quote, line)) for line in _lines(words))


def _lines(words: tuple[str, ...]) -> Iterator[list[str]]:
    line = [*words[:2]]
    for word in words[2:]:
        # A word that is not an option belongs to the previous word.
        if word.startswith("-") or line[-1].startswith("--entrypoint"):
            yield line
            line = []
        line.append(word)
    yield line


def _fits(shown: Shown) -> str | None:
    if shown.need is None:
        return None
    if memory.never_fits(shown.spec.model_id, shown.need, shown.host) is not None:
        return "never"
    return "now" if memory.fits(shown.need, shown.host, ()) else "later"


def _weights(shown: Shown) -> dict[str, object] | None:
    weights = shown.spec.weights
    if weights is None:
        return None
    return {
        "path": str(weights.path),
        "repo": weights.repo,
        "revision": weights.revision,
        "present": shown.weights_there,
        "flaw": shown.weights_flaw.message if shown.weights_flaw else None,
    }


def _weights_text(shown: Shown) -> str:
    weights = shown.spec.weights
    if weights is None:
        return "none"
    where = f"{weights.repo} in {weights.path}" if weights.repo else str(weights.path)
    if shown.weights_flaw is not None:
        return f"{where}, unusable: {shown.weights_flaw.message} ({shown.weights_flaw.hint})"
    if shown.weights_there:
        return where
    fetch = f": sudo sparkctl pull {shown.spec.model_id}" if weights.repo else ""
    return f"{where}, not there{fetch}"


def _adapter(adapter: Adapter) -> dict[str, object]:
    weights = adapter.weights
    return {
        "id": adapter.name,
        "path": str(weights.path),
        "repo": weights.repo,
        "revision": weights.revision,
        "present": weights.path.is_dir(),
    }


def _adapter_text(spec: ModelSpec, adapter: Adapter) -> str:
    weights = adapter.weights
    where = f"{weights.repo} in {weights.path}" if weights.repo else str(weights.path)
    missing = "" if weights.path.is_dir() else ", not there"
    fetch = f": sudo sparkctl pull {spec.model_id}" if missing and weights.repo else ""
    return f"{adapter.name}, {where}{missing}{fetch}"


def _limits(spec: ModelSpec, client: Client) -> dict[str, object]:
    told = offer(spec, client)
    return {
        "context": told.context_tokens,
        "output": told.output_tokens,
        "tools": told.tools,
        "reasoning": told.reasoning,
        "vision": told.vision,
        "options": dict(told.options),
    }


def _clients_text(spec: ModelSpec) -> str:
    told = offer(spec, Client.ALL)
    can = [
        name
        for name, has in (
            ("tools", told.tools),
            ("reasoning", told.reasoning),
            ("pictures", told.vision),
        )
        if has
    ]
    limits = f"told context {told.context_tokens}, output {told.output_tokens}"
    return ", ".join([limits if told.context_tokens else "told no limits", *can])


def _timeouts_text(shown: Shown) -> str:
    spec = shown.spec
    typical = shown.loads.typical_s
    load = f"load {output.age(spec.load_timeout_s)}"
    if typical is not None:
        load += f" (typically {output.age(typical)})"
    return f"{load}, idle {output.age(spec.idle_timeout_s)}, stop {output.age(spec.stop_grace_s)}"
