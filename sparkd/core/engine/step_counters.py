# SPDX-License-Identifier: Apache-2.0
"""The step counters of an engine, from vLLM's /metrics (Prometheus text format 0.0.4).

A page is untrusted text. Reading it raises nothing, and goes line by line: a lookup of a name on a
page without line ends, or with millions of them, holds no thread for longer than one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sparkd.core.numbers import bounded_float

PAGE_LIMIT_BYTES: Final = 2 << 20
"""A page of vLLM 0.32 with one engine has about 100 KiB."""
LINES_MAX: Final = 20_000
"""Lines of one page that are read at all; vLLM 0.32 prints about 700."""
LINE_CHARS_MAX: Final = 2000
"""Longer lines are skipped."""
_COUNT_MAX: Final = 1e18
_ENGINES_MAX: Final = 64
"""Engines of one server; more samples of one name than this are no reading."""
_STEPS, _RUNNING = "vllm:iteration_tokens_total_count", "vllm:num_requests_running"


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
    """The steps in a /metrics page; several engines of one server are added up.

    A name with a value that is no finite, positive number has no reading.
    """
    values: dict[str, list[float | None]] = {_STEPS: [], _RUNNING: []}
    for line in page_lines(text):
        name = line.partition("{")[0].partition(" ")[0]
        found = values.get(name)
        if found is not None and len(found) <= _ENGINES_MAX:
            rest = line[len(name) :]
            said = rest[rest.rfind("}") + 1 :].strip(" ").partition(" ")[0]
            found.append(bounded_float(said, most=_COUNT_MAX))
    return Steps(iterations=_sum(values[_STEPS]), running=_sum(values[_RUNNING]))


def page_lines(text: str) -> Iterator[str]:
    """The first lines of a page, without those that are too long."""
    begin = 0
    for _ in range(LINES_MAX):
        end = text.find("\n", begin)
        last = end < 0
        line_end = len(text) if last else end
        if line_end - begin <= LINE_CHARS_MAX:
            yield text[begin:line_end]
        if last:
            return
        begin = end + 1


def _sum(values: list[float | None]) -> float | None:
    """None unless there is a plausible number of readings, and each of them is a number."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values) or len(numbers) > _ENGINES_MAX:
        return None
    return sum(numbers)
