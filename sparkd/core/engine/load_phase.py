# SPDX-License-Identifier: Apache-2.0
"""The progress of a load, from the engine's log lines.

Knows the lines of vLLM (0.9 to 0.32) and SGLang (0.4 on). An engine that says none of them simply
has no phases. Only forward: a line of an earlier phase that comes late changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """In the order in which a load goes through them."""

    STARTING = "starting"
    """The process runs: imports, configuration."""
    WEIGHTS = "weights"
    """Weights are read; the only phase with a percentage that can be trusted."""
    COMPILE = "compile"
    """Kernels are compiled, or taken from the cache."""
    CACHE = "kv-cache"
    """Memory is profiled and the KV cache is made."""
    GRAPHS = "graph-capture"
    SERVER = "server"
    """The engine is done; its HTTP server starts."""


_ORDER = tuple(Phase)
_SIGNS: tuple[tuple[Phase, re.Pattern[str]], ...] = tuple(
    (phase, re.compile(pattern))
    for phase, pattern in (
        (Phase.WEIGHTS, r"Starting to load model|Load weight begin|Loading .*checkpoint shards:"),
        (Phase.WEIGHTS, r"Loading weights took|Load weight end"),
        (Phase.COMPILE, r"Start compiling function|Dynamo bytecode transform|Compiling a graph"),
        (Phase.COMPILE, r"torch\.compile takes|Directly load the compiled graph"),
        (Phase.CACHE, r"Available KV cache memory|GPU KV cache size|KV Cache is allocated"),
        (Phase.GRAPHS, r"Capturing CUDA graph|[Cc]apture cuda graph begin|Capturing batches"),
        (Phase.GRAPHS, r"Graph capturing finished|Capture cuda graph end"),
        (Phase.SERVER, r"init engine \(profile|Starting vLLM (?:API )?server|Uvicorn running"),
        (Phase.SERVER, r"Application startup complete|server is fired up"),
    )
)
_LINE_MAX = 400
"""Characters of a line that are read; the search takes time by their square."""
_PERCENT = re.compile(r":\s+([0-9]{1,3})%")
_WHOLE = re.compile(r"Loading weights took|Load weight end|Graph capturing finished|graph end")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """Where a load is; `percent` is of the phase, where the engine says it."""

    phase: Phase = Phase.STARTING
    percent: int | None = None

    @property
    def text(self) -> str:
        """A few words, `weights 60 %`."""
        return self.phase if self.percent is None else f"{self.phase} {self.percent} %"


def advanced(before: LoadProgress, line: str) -> LoadProgress:
    """The progress after one more line; the very same object when the line says nothing new."""
    # A progress bar writes over itself: only its last state counts.
    line = line.rstrip("\r").rpartition("\r")[2][:_LINE_MAX]
    phase = next((phase for phase, sign in _SIGNS if sign.search(line)), None)
    if phase is None or _ORDER.index(phase) < _ORDER.index(before.phase):
        return before
    percent = _percent(line)
    if phase is before.phase and (percent or 0) <= (before.percent or 0):
        return before
    return LoadProgress(phase=phase, percent=percent)


def _percent(line: str) -> int | None:
    if _WHOLE.search(line):
        return 100
    match = _PERCENT.search(line)
    return min(100, int(match[1])) if match else None
