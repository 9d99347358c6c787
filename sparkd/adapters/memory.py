# SPDX-License-Identifier: Apache-2.0
"""Readings of the memory that models live in: the host's, or a discrete GPU's own.

On unified memory (GB10) `nvidia-smi` answers [N/A], and /proc/meminfo tells all there is to know.
Tests give a meminfo file of their own by SPARKD_MEMINFO.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sparkd.core.memory import HostMemory, parse_meminfo, parse_smi

_SMI_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class MemoryProbe:
    meminfo: Path = Path("/proc/meminfo")

    @classmethod
    def from_environment(cls) -> MemoryProbe:
        return cls(Path(os.environ.get("SPARKD_MEMINFO", "/proc/meminfo")))

    def available_bytes(self) -> int:
        """MemAvailable, cheap enough to be read four times a second."""
        return parse_meminfo(self.meminfo.read_text())[1]

    async def host(self, reserve_bytes: int) -> HostMemory:
        """The memory that decides about a start: the GPU's own where it has any."""
        gpu = await _discrete_gpu()
        if gpu is not None:
            total, available = gpu
            return HostMemory(
                total_bytes=total, available_bytes=available, reserve_bytes=0, unified=False
            )
        total, available = parse_meminfo(self.meminfo.read_text())
        return HostMemory(total_bytes=total, available_bytes=available, reserve_bytes=reserve_bytes)


async def _discrete_gpu() -> tuple[int, int] | None:
    """Total and free memory of the first GPU in bytes; None when it has none of its own."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    process = await asyncio.create_subprocess_exec(
        *(tool, "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_SMI_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return None
    return parse_smi(output.decode(errors="replace"))
