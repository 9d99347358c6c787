# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of memory: whether a model fits, and the measures while it loads.

On unified memory (GB10) the GPU and everything else share one pool, NVML has no figures and cgroup
limits do not see CUDA allocations; what counts is MemAvailable of /proc/meminfo. On a host with a
discrete GPU the same arithmetic is done with the GPU's own memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sparkd.core.engine.arguments import option_value
from sparkd.core.errors import InsufficientMemory
from sparkd.core.model import ModelSpec
from sparkd.core.numbers import bounded_float, bounded_int
from sparkd.core.quantities import gib_of

UTILIZATION_OPTION = "--gpu-memory-utilization"

_MEMINFO_LINE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)
_SMI_MAX_MIB = 1 << 30


class Basis(StrEnum):
    """Where a need comes from."""

    MEASURED = "measured"
    """The peak of earlier loads of this model."""
    CONFIGURED = "configured"
    """`memory:` of its catalog entry."""
    UTILIZATION = "utilization"
    """Its --gpu-memory-utilization times the memory of the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """How much a model takes at its peak."""

    peak_bytes: int
    basis: Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """One reading of the memory that models live in."""

    total_bytes: int
    available_bytes: int
    reserve_bytes: int
    """What is never given to models: the system, and the daemon itself."""
    unified: bool = True


def need_of(spec: ModelSpec, measured_bytes: int | None, host: HostMemory) -> Need | None:
    """What a model takes at its peak, by the best that is known; None when nothing is."""
    if measured_bytes is not None:
        return Need(peak_bytes=measured_bytes, basis=Basis.MEASURED)
    if spec.memory_bytes is not None:
        return Need(peak_bytes=spec.memory_bytes, basis=Basis.CONFIGURED)
    fraction = _utilization_argument(spec.args)
    if fraction is not None:
        return Need(peak_bytes=int(fraction * host.total_bytes), basis=Basis.UTILIZATION)
    return None


def _utilization_argument(args: Sequence[str]) -> float | None:
    text = option_value(args, UTILIZATION_OPTION.removeprefix("--"), "gpu-memory-u")
    return bounded_float(text, most=1.0) if text else None


class Verdict(StrEnum):
    """What the guard of a load says about one reading."""

    FINE = "fine"
    DROP_CACHES = "drop caches"
    KILL = "kill"


def fits(need: Need, host: HostMemory, freed_bytes: Iterable[int], pledged_bytes: int = 0) -> bool:
    """Whether the model fits, once residents have given back `freed_bytes`.

    `pledged_bytes` are available, but others are about to take them.
    """
    usable = host.available_bytes + sum(freed_bytes) - pledged_bytes - host.reserve_bytes
    return need.peak_bytes <= min(usable, host.total_bytes - host.reserve_bytes)


def never_fits(model_id: str, need: Need, host: HostMemory) -> InsufficientMemory | None:
    """The refusal of a model that is larger than the host, or None."""
    limit = host.total_bytes - host.reserve_bytes
    if need.peak_bytes <= limit:
        return None
    return InsufficientMemory(
        f"model {model_id!r} needs {gib_of(need.peak_bytes)} ({need.basis}), this host can give "
        f"{gib_of(limit)}: {gib_of(host.total_bytes)} less {gib_of(host.reserve_bytes)} reserve",
        hint="lower --gpu-memory-utilization or memory_reserve, or use a smaller model",
        code="model_too_large",
    )


def does_not_fit(model_id: str, need: Need, host: HostMemory) -> InsufficientMemory:
    """The refusal of a model for which other programs leave too little."""
    return InsufficientMemory(
        f"model {model_id!r} needs {gib_of(need.peak_bytes)} ({need.basis}), "
        f"{gib_of(host.available_bytes)} are available less {gib_of(host.reserve_bytes)} reserve",
        hint="stop other programs that use memory: ps aux --sort=-rss | head",
        retry_after_s=30,
    )


def verdict(available_bytes: int, *, drop_caches_below: int, floor: int) -> Verdict:
    """The guard's word on one reading of MemAvailable while a model loads."""
    if available_bytes < floor:
        return Verdict.KILL
    if available_bytes < drop_caches_below:
        return Verdict.DROP_CACHES
    return Verdict.FINE


def utilization(need_bytes: int, host: HostMemory) -> float:
    """The --gpu-memory-utilization that gives a model what it needs and no more, floored to 0.01.

    The engine multiplies it by the total, so the floor keeps it on the safe side.
    """
    wanted = min(need_bytes, max(0, host.available_bytes - host.reserve_bytes))
    return int(100 * wanted / host.total_bytes) / 100


def parse_meminfo(text: str) -> tuple[int, int]:
    """MemTotal and MemAvailable of /proc/meminfo (proc(5)) in bytes. Raises ValueError."""
    found = meminfo_bytes(text)
    if "MemTotal" not in found or "MemAvailable" not in found:
        raise ValueError(f"meminfo has no MemTotal or MemAvailable: {text[:80]!r}")
    return found["MemTotal"], found["MemAvailable"]


def meminfo_bytes(text: str) -> dict[str, int]:
    """Every line of /proc/meminfo that is an amount of memory."""
    return {match[1]: int(match[2]) * 1024 for match in _MEMINFO_LINE.finditer(text)}


def parse_smi(text: str) -> tuple[int, int] | None:
    """Total and free bytes of the first GPU that `nvidia-smi` lists in MiB, "143771, 143158".

    None on unified memory, where it prints [N/A].
    """
    first = text.strip().partition("\n")[0]
    numbers = [bounded_int(part.strip(), most=_SMI_MAX_MIB) for part in first.split(",")]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        return None
    return numbers[0] << 20, numbers[1] << 20
