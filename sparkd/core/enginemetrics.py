# SPDX-License-Identifier: Apache-2.0
"""What vLLM's /metrics says about whether the engine moves (Prometheus text format 0.0.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SAMPLE = re.compile(
    r"^vllm:(?P<name>iteration_tokens_total_count|num_requests_running)"
    r"(?:\{[^}]*\})? (?P<value>[0-9.eE+]+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How many steps the engine has made; equal readings mean that it made none in between."""

    iterations: float | None
    running: float | None

    @property
    def countable(self) -> bool:
        """Whether the reading can tell a hang: it counts steps, and has something to do."""
        return self.iterations is not None and bool(self.running)


def parse_steps(text: str) -> Steps:
    """The steps in a /metrics page; several engines of one server are added up."""
    sums: dict[str, float] = {}
    for match in _SAMPLE.finditer(text):
        sums[match["name"]] = sums.get(match["name"], 0.0) + float(match["value"])
    return Steps(
        iterations=sums.get("iteration_tokens_total_count"),
        running=sums.get("num_requests_running"),
    )
