# SPDX-License-Identifier: Apache-2.0
"""Cycles of objects are found soon after somebody asked, and only new ones are looked for."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from sparkd.gateway.gc_tuning import GcTuning


class Cycle:
    def __init__(self) -> None:
        self.myself = self


@pytest.fixture(autouse=True)
def _nothing_by_itself() -> Iterator[None]:
    """Python collects only when told so; what a test has left out stays so, a few objects."""
    gc.disable()
    yield
    gc.enable()


async def test_many_wishes_are_one_collection_some_time_later() -> None:
    collections: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            collections.append(info["generation"])

    left = weakref.ref(Cycle())
    garbage = GcTuning(pause_s=0.02)
    gc.callbacks.append(note)
    try:
        for _ in range(10):
            garbage.collect_soon()
        assert left() is not None
        await asyncio.sleep(0.1)
    finally:
        gc.callbacks.remove(note)
    assert left() is None
    assert collections == [2], "one, of all generations"


async def test_a_wish_after_a_collection_is_another_one() -> None:
    garbage = GcTuning(pause_s=0.01)
    for _ in range(2):
        left = weakref.ref(Cycle())
        garbage.collect_soon()
        await asyncio.sleep(0.05)
        assert left() is None


async def test_what_was_there_at_the_start_is_not_looked_at() -> None:
    garbage = GcTuning(pause_s=0.01)
    left = weakref.ref(Cycle())
    garbage.leave_out_all_there_is()
    garbage.collect_soon()
    await asyncio.sleep(0.05)
    assert left() is not None
