# SPDX-License-Identifier: Apache-2.0
"""Shared readings: one at a time, none older than its reader allows, errors for all readers."""

from __future__ import annotations

import asyncio

import pytest

from sparkd.core.errors import HostError
from sparkd.gateway.shared_readings import Shared

PAUSE_S = 0.05


class Snapshot:
    """Counts how often it is read, and how often at the same time."""

    def __init__(self) -> None:
        self.reads = self.at_once = self.most_at_once = 0
        self.error: HostError | None = None

    async def look(self) -> int:
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        seen = self.reads
        try:
            await asyncio.sleep(0.01)
        finally:
            self.at_once -= 1
        if self.error is not None:
            raise self.error
        return seen


async def test_crowd_shares_two_readings_at_most() -> None:
    snapshot = Snapshot()
    shared = Shared(snapshot.look, PAUSE_S)
    await asyncio.gather(*(shared.read() for _ in range(200)))
    assert (snapshot.most_at_once, snapshot.reads) == (1, 1)
    first = asyncio.create_task(shared.read())
    await asyncio.sleep(PAUSE_S + 0.005)
    await asyncio.gather(first, *(shared.read() for _ in range(200)))
    assert (snapshot.most_at_once, snapshot.reads) == (1, 3)


async def test_reading_is_never_older_than_its_reader_allows() -> None:
    snapshot = Snapshot()
    shared = Shared(snapshot.look, PAUSE_S)
    assert await shared.read() == 1
    assert await shared.read() == 2
    assert await shared.read(max_age_s=60) == 2
    shared.forget()
    assert await shared.read(max_age_s=60) == 3


async def test_readings_that_follow_each_other_keep_a_pause() -> None:
    snapshot = Snapshot()
    shared = Shared(snapshot.look, PAUSE_S)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for _ in range(5):
        await shared.read()
    assert loop.time() - began_s >= 4 * PAUSE_S - 0.01


async def test_error_of_the_host_reaches_all_and_the_next_reading_is_a_new_one() -> None:
    snapshot = Snapshot()
    shared = Shared(snapshot.look, PAUSE_S)
    snapshot.error = HostError("no bus")
    told = await asyncio.gather(*(shared.read() for _ in range(3)), return_exceptions=True)
    assert [str(one) for one in told] == ["no bus"] * 3
    snapshot.error = None
    assert await shared.read() == 2


async def test_reader_that_leaves_takes_nobody_with_it() -> None:
    snapshot = Snapshot()
    shared = Shared(snapshot.look, PAUSE_S)
    first = asyncio.create_task(shared.read())
    await asyncio.sleep(0)
    second = asyncio.create_task(shared.read())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 2
    with pytest.raises(asyncio.CancelledError):
        await first
