# SPDX-License-Identifier: Apache-2.0
"""What to do about a model that is wanted: a pure decision over one reading of the world.

`decide` follows this tree; the numbers stand in the code too.

1. The model runs (or starts) as it is configured now: use it.
2. It runs with another configuration: keep using it while others do, else start it afresh.
3. A program that is not one of our models holds the GPU in a way that excludes it: refuse, and
   name that program.
4. Models run that exclude it by lifecycle: start it once they are stopped. Whoever acts stops
   only models that nobody uses, and waits for the others.
5. Nothing is in the way: start it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparkd.core.errors import GpuHeld, SparkdError
from sparkd.core.model import Instance, Lifecycle, LockHolder, ModelReading, State, World

RUNNING = frozenset({State.STARTING, State.READY, State.STOPPING})


@dataclass(frozen=True, slots=True)
class Use:
    """It runs: wait until it is healthy (it may already be) and go."""

    instance: Instance


@dataclass(frozen=True, slots=True)
class Start:
    """Start it, after these models were stopped (its own old instance among them, if any)."""

    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    error: SparkdError


Decision = Use | Start | Refuse


def decide(world: World, model_id: str, wanted_hash: str) -> Decision:
    """The decision for `model_id`, whose configuration hashes to `wanted_hash`."""
    lifecycle = world.lifecycles[model_id]
    own = world.models.get(model_id)
    running = own is not None and own.state in RUNNING
    if own is not None and running and own.instance is not None:
        if own.instance.spec_hash == wanted_hash or own.in_use:  # 1, 2
            return Use(own.instance)
    foreign = excluding_program(world.holders, lifecycle)
    if foreign is not None:  # 3
        return Refuse(gpu_held(model_id, foreign))
    return Start(evict=_in_the_way(world, model_id, lifecycle))  # 4, 5


def exclude_each_other(one: Lifecycle, other: Lifecycle) -> bool:
    """Whether two models cannot run at the same time; the lock modes say the same."""
    pair = {one, other}
    return Lifecycle.EXCLUSIVE in pair or pair == {Lifecycle.NORMAL}


def excluding_program(
    holders: tuple[LockHolder, ...], lifecycle: Lifecycle
) -> LockHolder | None:
    """The first program outside sparkd whose hold on gpu.lock excludes this lifecycle."""
    for holder in holders:
        excludes = holder.exclusive or lifecycle is Lifecycle.EXCLUSIVE
        if holder.model_id is None and excludes:
            return holder
    return None


def gpu_held(model_id: str, holder: LockHolder) -> GpuHeld:
    """The refusal that names who holds the GPU."""
    return GpuHeld(
        f"model {model_id!r} cannot start: the GPU is held by pid {holder.pid}, {holder.command!r}",
        hint="wait until it ends, or stop it",
        retry_after_s=30,
    )


def _in_the_way(world: World, model_id: str, lifecycle: Lifecycle) -> tuple[str, ...]:
    def blocks(reading: ModelReading) -> bool:
        if reading.state not in RUNNING:
            return False
        # A model that left the catalog while it ran is still there; count it as a normal one.
        other = world.lifecycles.get(reading.model_id, Lifecycle.NORMAL)
        return reading.model_id == model_id or exclude_each_other(lifecycle, other)

    return tuple(sorted(reading.model_id for reading in world.models.values() if blocks(reading)))
