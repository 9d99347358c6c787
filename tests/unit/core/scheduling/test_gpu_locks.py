# SPDX-License-Identifier: Apache-2.0
"""A model that holds the GPU's locks against its class is named before others start in vain."""

from __future__ import annotations

import pytest

from sparkd.core.model import Lifecycle
from sparkd.core.observed import LockHolder
from sparkd.core.scheduling.gpu_locks import excluding_model, held_by_model

UTILITY, NORMAL, EXCLUSIVE = Lifecycle.UTILITY, Lifecycle.NORMAL, Lifecycle.EXCLUSIVE


def holder(model_id: str | None, *, exclusive: bool) -> LockHolder:
    return LockHolder(pid=42, command="vllm serve", exclusive=exclusive, model_id=model_id)


THIEF = holder("thief", exclusive=True)
SHARING = holder("thief", exclusive=False)


@pytest.mark.parametrize(
    ("gpu", "lane", "lifecycle", "excluding"),
    [
        ([THIEF], [], UTILITY, THIEF),
        ([THIEF], [], NORMAL, THIEF),
        ([THIEF], [], EXCLUSIVE, THIEF),
        ([SHARING], [], UTILITY, None),
        ([SHARING], [], NORMAL, None),
        ([SHARING], [], EXCLUSIVE, SHARING),
        ([], [THIEF], UTILITY, None),
        ([], [THIEF], NORMAL, THIEF),
        # As flock(2) lets it: a shared hold on the lane excludes a main model too.
        ([], [SHARING], NORMAL, SHARING),
        ([holder("m", exclusive=True)], [holder("m", exclusive=True)], EXCLUSIVE, None),
        ([holder(None, exclusive=True)], [], NORMAL, None),
    ],
)
def test_model_in_the_way_is_the_one_whose_hold_excludes_the_class(
    gpu: list[LockHolder],
    lane: list[LockHolder],
    lifecycle: Lifecycle,
    excluding: LockHolder | None,
) -> None:
    assert excluding_model(gpu, lane, "m", lifecycle) is excluding


def test_refusal_names_the_holder_to_admins_only() -> None:
    error = held_by_model("m", THIEF)
    assert "'thief', pid 42" in error.told(admin=True)
    assert "thief" not in error.told(admin=False)
    assert (error.code, error.http_status, error.retry_after_s) == ("gpu_held", 503, 30)
    assert "fuser" in held_by_model("m", None).hint
