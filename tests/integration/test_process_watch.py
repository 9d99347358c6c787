# SPDX-License-Identifier: Apache-2.0
"""Watches on processes that exist, that have ended, or that never had a number."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from sparkd.adapters.proc.processes import ProcessWatch


async def test_end_of_a_process_is_seen() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        watch = ProcessWatch(process.pid)
        try:
            assert watch.alive()
            process.kill()
            async with asyncio.timeout(10):
                await watch.ended()
            assert not watch.alive()
        finally:
            watch.close()


@pytest.mark.parametrize("pid", [0, -1, 4_194_305])
def test_number_of_no_process_is_a_process_that_has_ended(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        ProcessWatch(pid)
