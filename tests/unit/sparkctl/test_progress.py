# SPDX-License-Identifier: Apache-2.0
"""Signals that end a command: it ends as interrupted, whatever its work makes of it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from sparkd.core.errors import StartCrashed
from sparkd.sparkctl import progress

CRASH = StartCrashed("model 'm' exited with 137 while it started", hint="sudo sparkctl logs m")


async def crashes_when_given_up() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise CRASH from None


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_crash_that_follows_a_signal_counts_as_interrupted(signum: signal.Signals) -> None:
    async def work() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signum)
        await crashes_when_given_up()

    with pytest.raises(KeyboardInterrupt):
        progress.run(work(), lambda: "m: loading")


def test_crash_without_a_signal_stays_a_crash() -> None:
    async def work() -> None:
        raise CRASH

    with pytest.raises(StartCrashed):
        progress.run(work(), lambda: "m: loading")
