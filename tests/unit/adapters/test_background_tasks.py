# SPDX-License-Identifier: Apache-2.0
"""Background tasks: a failure is logged and repaired by a restart, and reaches nothing else."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sparkd.adapters.background_tasks import BackgroundTasks, alongside

QUICK = (0.0, 0.01)


class Flaky:
    """Work that fails as often as it is told to, then returns."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.runs = 0
        self._failures = failures
        self._error = error or ValueError("1e5e5")

    async def work(self) -> None:
        self.runs += 1
        await asyncio.sleep(0)
        if self.runs <= self._failures:
            raise self._error


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(28, "full"), ExceptionGroup("all", [KeyError(1)])]
)
async def test_failed_task_runs_again_and_each_failure_is_logged(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    flaky, supervisor = Flaky(3, error), BackgroundTasks(QUICK)
    await supervisor.keep("watch", flaky.work)
    assert flaky.runs == 4
    told = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert [entry.getMessage() for entry in told] == [
        "background task watch failed, restart in 0 s",
        *(["background task watch failed, restart in 0.01 s"] * 2),
    ]
    assert all(entry.exc_info for entry in told)


async def test_task_that_is_not_kept_is_logged_and_not_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flaky = Flaky(1)
    await BackgroundTasks(QUICK).once("sweep", flaky.work)
    assert (flaky.runs, len(caplog.records)) == (1, 1)


async def test_failure_of_one_task_leaves_the_others_alone() -> None:
    supervisor, steady = BackgroundTasks(QUICK), asyncio.Event()
    broken = supervisor.keep("broken", Flaky(10**6).work)
    waiting = supervisor.keep("waiting", lambda: wait(steady))
    await asyncio.sleep(0.05)
    assert not broken.done()
    assert not waiting.done()
    steady.set()
    await waiting
    await supervisor.close()
    assert broken.cancelled()


async def wait(event: asyncio.Event) -> None:
    await event.wait()


async def test_failure_alongside_a_block_does_not_reach_the_block() -> None:
    flaky = Flaky(10**6)
    async with alongside("guard", flaky.work):
        await asyncio.sleep(0.02)
        done = True
    assert done
    assert flaky.runs == 1


async def test_work_alongside_a_block_ends_with_it() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with alongside("watch", work):
        await asyncio.sleep(0)
    assert ended.is_set()
