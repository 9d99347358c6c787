# SPDX-License-Identifier: Apache-2.0
"""A crowd that comes at once is begun some at a time, and the loop looks around between them."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import pairwise

import pytest

from sparkd.gateway.http.pacing import AT_ONCE, Pacing

CROWD = 10 * AT_ONCE


def take_at_once(pacing: Pacing) -> None:
    with pytest.raises(StopIteration):
        pacing.take().send(None)


async def test_first_ones_begin_without_waiting() -> None:
    pacing = Pacing()
    for _ in range(AT_ONCE):
        take_at_once(pacing)


async def test_other_work_is_done_between_those_that_begin_and_they_begin_in_order() -> None:
    pacing, begun, seen = Pacing(), list[int](), list[int]()

    async def request(number: int) -> None:
        await pacing.take()
        begun.append(number)

    def look() -> None:
        """What is ready meanwhile, such as a token for a stream that is open."""
        seen.append(len(begun))
        asyncio.get_running_loop().call_soon(look)

    look()
    async with asyncio.TaskGroup() as crowd:
        for number in range(CROWD):
            crowd.create_task(request(number))
    assert begun == list(range(CROWD))
    steps = [after - before for before, after in pairwise(seen)]
    assert max(steps) == AT_ONCE


async def test_turn_of_one_who_left_is_the_next_ones() -> None:
    pacing, begun = Pacing(), list[int]()

    async def request(number: int) -> None:
        await pacing.take()
        begun.append(number)

    tasks = [asyncio.create_task(request(number)) for number in range(3 * AT_ONCE)]
    await asyncio.sleep(0)
    for task in tasks[AT_ONCE : 2 * AT_ONCE]:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert begun == [*range(AT_ONCE), *range(2 * AT_ONCE, 3 * AT_ONCE)]
    await asyncio.sleep(0)
    take_at_once(pacing)


async def test_one_that_comes_meanwhile_does_not_pass_those_that_wait() -> None:
    pacing, begun = Pacing(), list[int]()

    async def request(number: int) -> None:
        await pacing.take()
        begun.append(number)
        if number == 0:
            # Comes in the first turn, behind all that came before.
            later.append(asyncio.create_task(request(CROWD)))

    later: list[asyncio.Task[None]] = []
    await asyncio.gather(*(request(number) for number in range(CROWD)))
    await asyncio.gather(*later)
    assert begun == list(range(CROWD + 1))
