# SPDX-License-Identifier: Apache-2.0
"""The sparkctl commands that the gateway runs: one at a time, whichever clients come or leave.

A script replaces sparkctl: it records its start and end, and waits for its gate.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sparkd.adapters.doctor_process import Doctor
from sparkd.core.errors import HostError

pytestmark = pytest.mark.integration

SCRIPT = """#!/bin/sh
cd {0}
echo begun >>log
while [ ! -e gate ]; do sleep 0.05; done
echo ended >>log
{1}
"""
DEADLINE_S = 30.0


@pytest.fixture
def sparkctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Have this be what sparkctl does once its gate is there; where it notes that."""

    def written(last: str) -> Path:
        program = tmp_path / "sparkctl"
        program.write_text(SCRIPT.format(tmp_path, last))
        program.chmod(0o755)
        return tmp_path

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return written


def noted(place: Path) -> list[str]:
    log = place / "log"
    return log.read_text().split() if log.exists() else []


async def until(noted_so_far: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not noted_so_far():
            await asyncio.sleep(0.02)


async def all_of(asked: list[Awaitable[object]]) -> list[object]:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.gather(*asked, return_exceptions=True)


async def told_to_a_crowd(doctor: Doctor, place: Path) -> list[object]:
    """What ten are told of whom nine ask while the first one's diagnosis is being made."""
    asked = [asyncio.create_task(doctor.diagnosis())]
    await until(lambda: noted(place) == ["begun"])
    asked += [asyncio.create_task(doctor.diagnosis()) for _ in range(9)]
    await asyncio.sleep(0)
    (place / "gate").touch()
    return await all_of([*asked])


async def test_crowd_that_asks_for_a_diagnosis_has_two_made_one_after_the_other(
    sparkctl: Callable[[str], Path],
) -> None:
    place = sparkctl("echo '" + json.dumps({"findings": []}) + "'")
    assert await told_to_a_crowd(Doctor(), place) == [{"findings": []}] * 10
    assert noted(place) == ["begun", "ended"] * 2


async def test_failure_is_told_to_all_who_shared_it_and_to_nobody_later(
    sparkctl: Callable[[str], Path],
) -> None:
    place = sparkctl("exit 3")
    doctor = Doctor()
    told = await told_to_a_crowd(doctor, place)
    assert {type(error) for error in told} == {HostError}
    assert noted(place) == ["begun", "ended"] * 2
    sparkctl("echo '{}'")
    assert await doctor.diagnosis() == {}


async def test_who_leaves_takes_his_diagnosis_along_and_the_next_has_his_own(
    sparkctl: Callable[[str], Path],
) -> None:
    place = sparkctl("echo '{}'")
    doctor = Doctor()
    leaver = asyncio.create_task(doctor.diagnosis())
    await until(lambda: noted(place) == ["begun"])
    stayer = asyncio.create_task(doctor.diagnosis())
    await asyncio.sleep(0)
    leaver.cancel()
    await until(lambda: noted(place) == ["begun", "begun"])
    (place / "gate").touch()
    (said,) = await all_of([stayer])
    assert said == {}
    assert noted(place) == ["begun", "begun", "ended"]
    assert leaver.cancelled()
