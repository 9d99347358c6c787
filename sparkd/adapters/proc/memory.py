# SPDX-License-Identifier: Apache-2.0
"""Readings of the memory that models use: the host's, or a discrete GPU's.

On unified memory (GB10) `nvidia-smi` answers [N/A], and /proc/meminfo tells all there is to know;
whether that is so is found out once a process. Tests give a meminfo file of their own by
SPARKD_MEMINFO.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sparkd.adapters.commands import output_of
from sparkd.core.errors import HostError
from sparkd.core.scheduling.memory import HostMemory, meminfo_bytes, parse_meminfo, parse_smi

_SMI_TIMEOUT_S = 5.0
_SMI_QUERY = ("--id=0", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits")
"""Of the first GPU: models that want another one are not counted."""


class MemoryProbe:
    """`discrete` is None until `host` was asked once."""

    def __init__(self, meminfo: Path = Path("/proc/meminfo")) -> None:
        self._meminfo = meminfo
        self.discrete: bool | None = None

    @classmethod
    def from_environment(cls) -> MemoryProbe:
        return cls(Path(os.environ.get("SPARKD_MEMINFO", "/proc/meminfo")))

    def available_bytes(self) -> int:
        """MemAvailable of the host, cheap enough to be read four times a second."""
        return parse_meminfo(self._meminfo.read_text())[1]

    def amounts(self) -> dict[str, int]:
        """Every line of meminfo, in bytes."""
        return meminfo_bytes(self._meminfo.read_text())

    async def host(self, reserve_bytes: int) -> HostMemory:
        """The memory that decides about a start: the GPU's own where it has any.

        The reserve is for the host, so a GPU's own memory has none. Raises HostError when a GPU
        that has told before does not any more.
        """
        gpu = await _discrete_gpu() if self.discrete is not False else None
        if self.discrete is None:
            self.discrete = gpu is not None
        elif self.discrete and gpu is None:
            raise HostError(
                "nvidia-smi no longer reports the memory of the GPU",
                hint="nvidia-smi; after an update of the driver: sudo reboot",
            )
        if gpu is not None:
            total, available = gpu
            return HostMemory(
                total_bytes=total, available_bytes=available, reserve_bytes=0, unified=False
            )
        total, available = parse_meminfo(self._meminfo.read_text())
        return HostMemory(total_bytes=total, available_bytes=available, reserve_bytes=reserve_bytes)


async def _discrete_gpu() -> tuple[int, int] | None:
    """Total and free memory of the first GPU in bytes; None when it has none of its own."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    output = await output_of(tool, *_SMI_QUERY, within_s=_SMI_TIMEOUT_S)
    return None if output is None else parse_smi(output.decode(errors="replace"))
