# SPDX-License-Identifier: Apache-2.0
"""`sparkctl status`: socket, service, GPU, memory, models, queue and configuration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sparkd._version import __version__
from sparkd.adapters.proc.memory import MemoryProbe
from sparkd.adapters.proc.processes import LockTable
from sparkd.core.model import Config
from sparkd.core.observed import LockHolder, ModelReading
from sparkd.core.quantities import count_of
from sparkd.core.scheduling.memory import HostMemory
from sparkd.sparkctl import catalog, output, privileges, reading, system_units, waiting
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.commands import ps
from sparkd.sparkctl.commands.models import states_unknown
from sparkd.sparkctl.exit_codes import Exit
from sparkd.sparkctl.system_units import UNKNOWN, SystemUnit
from sparkd.sparkctl.waiting import Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The values that the command shows."""

    socket: SystemUnit
    service: SystemUnit
    holders: tuple[LockHolder, ...]
    config: Config
    running: tuple[ModelReading, ...] | None = None
    """None when the gateway could not be asked."""
    queue: tuple[Waiting, ...] | None = None
    """The waiting requests, or None when they are unknown."""
    memory: HostMemory | None = None


def run(options: Options) -> Exit:
    socket, service = system_units.read()
    privileges.read_as_sparkd()
    config = catalog.load()
    snapshot, error = reading.try_read_snapshot(config, options.words)
    overview = Overview(
        socket=socket,
        service=service,
        # Every user can read the lock table.
        holders=LockTable.read().holders(catalog.layout().gpu_lock),
        config=config,
        running=tuple(ps.running(snapshot)) if snapshot else None,
        queue=waiting.read(service, options.words),
        memory=asyncio.run(
            MemoryProbe.from_environment().host(config.settings.memory_reserve_bytes)
        ),
    )
    if options.json:
        output.print_json(as_json(overview))
    else:
        print(text(overview, time.time()))
    if error is not None:
        output.print_error(states_unknown(error))
    return Exit.NO if socket.state == "failed" else Exit.OK


def as_json(overview: Overview) -> dict[str, object]:
    running = overview.running
    return {
        "version": __version__,
        "socket": asdict(overview.socket),
        "service": asdict(overview.service),
        "gpu": {
            "held": bool(overview.holders),
            "holders": [
                {
                    "pid": holder.pid,
                    "command": holder.command,
                    "exclusive": holder.exclusive,
                    "model": holder.model_id,
                }
                for holder in overview.holders
            ],
        },
        "models": {
            "configured": len(overview.config.models),
            "broken": len(overview.config.broken),
            "running": None if running is None else [ps.as_json(one) for one in running],
        },
        "queue": None if overview.queue is None else [asdict(one) for one in overview.queue],
        "memory": None if overview.memory is None else asdict(overview.memory),
        "problems": len(overview.config.problems),
    }


def text(overview: Overview, now: float) -> str:
    """The screen for people; `now` is wall time."""
    rows = [
        ("sparkd", __version__),
        ("socket", _socket_text(overview.socket)),
        ("service", _service_text(overview.service, overview.socket)),
        ("GPU", ", ".join(_holder_text(holder) for holder in overview.holders) or "free"),
        ("memory", _memory_text(overview.memory)),
        ("models", _models_text(overview, now)),
        ("queue", _queue_text(overview.queue)),
        ("config", _config_text(overview.config)),
    ]
    return "\n".join(f"{name:<8}  {value}" for name, value in rows)


def _socket_text(socket: SystemUnit) -> str:
    parts = [socket.state, socket.enabled]
    if socket.state == "active":
        parts.append(f"listens on {' and '.join(socket.listen)}")
    elif socket.state == "inactive":
        parts.append("start it with: sudo systemctl enable --now sparkd.socket")
    elif socket.state == "failed":
        parts.append("sudo sparkctl doctor tells why")
    return ", ".join(part for part in parts if part != UNKNOWN) or UNKNOWN


def _service_text(service: SystemUnit, socket: SystemUnit) -> str:
    if service.pid is not None:
        return f"{service.state}, pid {service.pid}"
    if service.state == "inactive" and socket.state == "active":
        return "inactive, starts with the next request"
    return service.state


def _holder_text(holder: LockHolder) -> str:
    how = "held alone" if holder.exclusive else "held"
    if holder.model_id is not None:
        return f"{how} by model {holder.model_id} (pid {holder.pid})"
    return f"{how} by pid {holder.pid}, {output.printable(holder.command)!r}"


def _models_text(overview: Overview, now: float) -> str:
    known = count_of(len(catalog.names(overview.config)), "model")
    if overview.running is None:
        return f"{known}, {UNKNOWN} which of them run"
    if not overview.running:
        return f"{known}, none is running"
    return f"{known}, running: {_running_text(overview.running, now)}"


def _running_text(running: Sequence[ModelReading], now: float) -> str:
    def one(found: ModelReading) -> str:
        since = f", up {output.age(now - found.instance.started_at)}" if found.instance else ""
        return f"{found.model_id} ({found.state}{since})"

    return ", ".join(one(found) for found in running)


def _memory_text(memory: HostMemory | None) -> str:
    if memory is None:
        return UNKNOWN
    available, total = (size / 2**30 for size in (memory.available_bytes, memory.total_bytes))
    whose = f"less {memory.reserve_bytes / 2**30:.1f} reserve" if memory.unified else "of the GPU"
    return f"{available:.1f} of {total:.1f} GiB available, {whose}"


def _queue_text(queue: tuple[Waiting, ...] | None) -> str:
    if queue is None:
        return UNKNOWN
    return (
        "; ".join(
            f"{one.waiting} for {one.model}, the first since {output.age(one.oldest_s)}: {one.why}"
            for one in queue
        )
        or "nobody waits"
    )


def _config_text(config: Config) -> str:
    if not config.problems:
        return "ok"
    return f"{count_of(len(config.problems), 'problem')}, see them with: sparkctl check"
