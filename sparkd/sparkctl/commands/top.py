# SPDX-License-Identifier: Apache-2.0
"""`sparkctl top`: the resource use of running models, every second on a terminal, else once."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from sparkd.core.quantities import readable_size
from sparkd.observe.resource_usage import ModelUsage, UsageReader, UsageSnapshot
from sparkd.sparkctl import catalog, output, privileges, reading
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

if TYPE_CHECKING:
    from rich.console import RenderableType

_PAUSE_S = 1.0
_FIRST_PAUSE_S = 0.3
"""The pause between the two readings of single output: a CPU share needs two."""
_HEADER = ("MODEL", "STATE", "REQUESTS", "CPU", "MEMORY", "PROCESSES", "UP", "IDLE")
_BAR_CHARS = 30


def run(options: Options) -> Exit:
    privileges.act_as_sparkd(options.words)
    reserve_bytes = catalog.load().settings.memory_reserve_bytes
    top = _build()
    if options.json or not sys.stdout.isatty():
        found = asyncio.run(_once(top, reserve_bytes))
        if options.json:
            output.print_json(as_json(found))
        else:
            print(text(found))
        return Exit.OK
    asyncio.run(_live(top, reserve_bytes))
    return Exit.OK


def as_json(found: UsageSnapshot) -> dict[str, object]:
    memory = found.memory
    return {
        "memory": {
            "total_bytes": memory.total_bytes,
            "available_bytes": memory.available_bytes,
            "reserve_bytes": memory.reserve_bytes,
        },
        "gpu": list(found.holders),
        "models": [{"id": row.model_id, **_without_id(row)} for row in found.rows],
    }


def text(found: UsageSnapshot) -> str:
    """The whole screen."""
    lines = [memory_line(found), f"GPU     {', '.join(_shown(found)) or 'free'}", ""]
    if not found.rows:
        return "\n".join([*lines, "no model is running"])
    return "\n".join([*lines, output.table(_HEADER, [_cells(row) for row in found.rows])])


def memory_line(found: UsageSnapshot) -> str:
    """The used memory, with a bar, and the reserve that models never get."""
    memory = found.memory
    used = memory.total_bytes - memory.available_bytes
    full = round(_BAR_CHARS * used / memory.total_bytes) if memory.total_bytes else 0
    bar = "#" * full + "." * (_BAR_CHARS - full)
    sizes = f"{readable_size(used)} of {readable_size(memory.total_bytes)} used"
    return f"memory  [{bar}] {sizes}, {readable_size(memory.reserve_bytes)} kept free"


def _build() -> UsageReader:
    # A local import: the bus libraries take longer to load than the rest of a command.
    from sparkd import runtime

    parts = runtime.build()
    reading.require_bus(parts)
    return UsageReader(
        parts.layout,
        parts.systemd,
        parts.sessions,
        parts.leases,
        parts.records,
        parts.probe,
    )


async def _once(top: UsageReader, reserve_bytes: int) -> UsageSnapshot:
    first = await top.read(None, reserve_bytes)
    await asyncio.sleep(_FIRST_PAUSE_S)
    return await top.read(first, reserve_bytes)


async def _live(top: UsageReader, reserve_bytes: int) -> None:
    # Imported here: only a terminal needs rich.
    from rich.live import Live

    found = await _once(top, reserve_bytes)
    with Live(_drawn(found), screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(_PAUSE_S)
            found = await top.read(found, reserve_bytes)
            live.update(_drawn(found), refresh=True)


def _drawn(found: UsageSnapshot) -> RenderableType:
    from rich.text import Text

    return Text(f"{text(found)}\n\nCtrl-C ends", no_wrap=True, overflow="ellipsis")


def _shown(found: UsageSnapshot) -> list[str]:
    return [output.printable(holder) for holder in found.holders]


def _without_id(row: ModelUsage) -> dict[str, object]:
    values = asdict(row)
    del values["model_id"]
    return values


def _cells(row: ModelUsage) -> tuple[str, ...]:
    return (
        row.model_id,
        row.state,
        str(row.requests),
        output.NOTHING if row.cpu_percent is None else f"{row.cpu_percent:.0f} %",
        readable_size(row.memory_bytes),
        str(row.processes),
        output.NOTHING if row.up_s is None else output.age(row.up_s),
        output.NOTHING if row.idle_s is None else output.age(row.idle_s),
    )
