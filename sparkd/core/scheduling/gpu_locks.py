# SPDX-License-Identifier: Apache-2.0
"""Models whose GPU locks exclude another model, and the refusal that names them.

Pure. A model's own process holds its locks, so it can also take one that its class does not allow.
The kernel's table names such a model before a start fails on its lock.
"""

from __future__ import annotations

from collections.abc import Iterable

from sparkd.core.errors import GpuHeld
from sparkd.core.model import Lifecycle
from sparkd.core.observed import LockHolder

RETRY_AFTER_S = 30


def excluding_model(
    gpu: Iterable[LockHolder], lane: Iterable[LockHolder], model_id: str, lifecycle: Lifecycle
) -> LockHolder | None:
    """The first other model whose hold on `gpu.lock` or `lane.lock` excludes a start."""
    exclusive = lifecycle is Lifecycle.EXCLUSIVE
    wanted = [holder for holder in gpu if holder.exclusive or exclusive]
    wanted += lane if lifecycle is not Lifecycle.UTILITY else ()
    others = (holder for holder in wanted if holder.model_id not in (None, model_id))
    return next(others, None)


def held_by_model(model_id: str, holder: LockHolder | None) -> GpuHeld:
    """The refusal of a model that found its locks taken at every try."""
    refusal = f"model {model_id!r} cannot start: the GPU is held by"
    if holder is None or holder.model_id is None:
        return GpuHeld(
            f"{refusal} a process that ended each time before it could be named",
            hint="fuser -v /run/sparkd/gpu.lock /run/sparkd/lane.lock",
            retry_after_s=RETRY_AFTER_S,
        )
    return GpuHeld(
        f"{refusal} model {holder.model_id!r}, pid {holder.pid}, {holder.command!r}",
        discreet=f"{refusal} another model",
        hint="sudo sparkctl status; sudo sparkctl stop --now MODEL",
        retry_after_s=RETRY_AFTER_S,
    )
