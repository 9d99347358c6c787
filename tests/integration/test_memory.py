# SPDX-License-Identifier: Apache-2.0
"""Memory of hosts and of discrete GPUs: a scripted meminfo, and a program in nvidia-smi's place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from sparkd.adapters.proc.memory import MemoryProbe
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.errors import HostError
from sparkd.core.model import Settings
from sparkd.core.scheduling.memory import HostMemory
from sparkd.lifecycle.start.memory_guard import MemoryGuard, recovered

MIB = 1 << 20
GIB = 1 << 30


class Counted(MemoryProbe):
    """Counts how often it has told."""

    told = 0

    async def host(self, reserve_bytes: int) -> HostMemory:
        memory = await super().host(reserve_bytes)
        self.told += 1
        return memory


class Machine:
    """A meminfo file, and an nvidia-smi that says what it is told and counts how often."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.meminfo = directory / "meminfo"
        self.answer = directory / "answer"
        self.asked = directory / "asked"
        self.available(100_000)

    def available(self, mib: int) -> None:
        self.meminfo.write_text(f"MemTotal: {131072 * 1024} kB\nMemAvailable: {mib * 1024} kB\n")

    def gpu(self, answer: str) -> None:
        fresh = self.answer.with_suffix(".new")
        fresh.write_text(answer)
        fresh.rename(self.answer)
        tool = self.directory / "nvidia-smi"
        if not tool.exists():
            tool.write_text(f'#!/bin/sh\necho "$@" >>{self.asked}\ncat {self.answer}\n')
            tool.chmod(0o755)

    @property
    def probe(self) -> Counted:
        return Counted(self.meminfo)

    def guard(self, probe: MemoryProbe, others_move: Callable[[], bool] = bool) -> MemoryGuard:
        nobody = UserManager(self.directory / "no-bus")
        return MemoryGuard(probe, nobody, self.directory / "drop-caches", Settings(), others_move)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Machine(tmp_path)


async def watched(
    machine: Machine, load: Callable[[], None], others_move: Callable[[], bool] = bool
) -> int | None:
    """The peak of a load during which something happens, and passes again."""
    probe = machine.probe
    guard = machine.guard(probe, others_move)
    await guard.begin()
    async with guard.watching("none.scope"):
        await measured(probe)
        load()
        await measured(probe)
        machine.available(100_000)
        if machine.answer.exists():
            machine.gpu("24576, 20000\n")
    return await guard.peak_bytes()


async def measured(probe: Counted) -> None:
    """Wait for two readings: the first may have begun before what is to be seen."""
    enough = probe.told + 2
    async with asyncio.timeout(60):
        while probe.told < enough:
            await asyncio.sleep(0.01)


async def test_without_a_gpu_tool_the_memory_of_the_host_counts(machine: Machine) -> None:
    memory = await machine.probe.host(4 * GIB)
    assert memory.unified
    assert (memory.total_bytes, memory.available_bytes) == (128 * GIB, 100_000 * MIB)
    assert memory.reserve_bytes == 4 * GIB


async def test_gpu_of_unified_memory_is_asked_once_and_the_host_counts(machine: Machine) -> None:
    machine.gpu("[N/A], [N/A]\n")
    probe = machine.probe
    for _ in range(3):
        assert (await probe.host(4 * GIB)).unified
    assert len(machine.asked.read_text().splitlines()) == 1


async def test_discrete_gpu_counts_with_its_own_memory_and_no_reserve(machine: Machine) -> None:
    machine.gpu("24576, 20000\n")
    memory = await machine.probe.host(4 * GIB)
    assert not memory.unified
    assert (memory.total_bytes, memory.available_bytes) == (24 * GIB, 20_000 * MIB)
    assert memory.reserve_bytes == 0


async def test_discrete_gpu_that_falls_silent_is_an_error_and_not_the_host(
    machine: Machine,
) -> None:
    machine.gpu("24576, 20000\n")
    probe = machine.probe
    await probe.host(0)
    machine.gpu("")
    with pytest.raises(HostError, match="nvidia-smi"):
        await probe.host(0)


async def test_peak_of_a_load_is_what_the_host_lost_at_the_worst_moment(machine: Machine) -> None:
    peak = await watched(machine, lambda: machine.available(70_000))
    assert peak == 30_000 * MIB


async def test_peak_on_a_discrete_gpu_is_what_the_gpu_lost(machine: Machine) -> None:
    machine.gpu("24576, 20000\n")

    def load() -> None:
        machine.available(50_000)
        machine.gpu("24576, 8000\n")

    assert await watched(machine, load) == 12_000 * MIB


async def test_peak_is_not_known_when_another_model_moved_meanwhile(machine: Machine) -> None:
    moving = iter((False, True))
    peak = await watched(
        machine, lambda: machine.available(70_000), others_move=lambda: next(moving, False)
    )
    assert peak is None


async def test_memory_that_comes_back_late_is_waited_for(machine: Machine) -> None:
    machine.available(10_000)
    loop = asyncio.get_running_loop()
    loop.call_later(0.6, lambda: machine.available(60_000))
    began_s = loop.time()
    await recovered(machine.probe, 50_000 * MIB)
    assert 0.5 < loop.time() - began_s < 18, "it would wait 20 s for what never comes back"
