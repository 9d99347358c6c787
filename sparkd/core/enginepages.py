# SPDX-License-Identifier: Apache-2.0
"""The /metrics pages of running engines as one text, each series with the model that it is of.

Prometheus text format 0.0.4. Only what is about the engine is taken: every Python server has
`process_…` and `python_…` series, which the gateway has itself. Families stay together, as the
format demands, and a model has a limited number of series, so that one engine cannot flood all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

SERIES_MAX = 2000
"""Of one model; vLLM 0.32 has about 500 with one engine."""

_ENGINES = ("vllm:", "sglang:")
_SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


@dataclass(slots=True)
class _Family:
    head: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)


def merged(pages: Mapping[str, str]) -> tuple[str, dict[str, int]]:
    """The pages, by model, as one; and how many series of each model were left out."""
    families: dict[str, _Family] = {}
    dropped = {model_id: _take(families, model_id, page) for model_id, page in pages.items()}
    lines = [line for one in families.values() if one.samples for line in one.head + one.samples]
    return "".join(f"{line}\n" for line in lines), dropped


def _take(families: dict[str, _Family], model_id: str, page: str) -> int:
    """Add one page; how many of its series were too many."""
    taken, dropped, current = 0, 0, ""
    for line in page.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            current = line.split(" ", 3)[2]
            if current.startswith(_ENGINES):
                head = families.setdefault(current, _Family()).head
                if not any(known.startswith(line[:6] + " ") for known in head):
                    head.append(line)
            continue
        match = _SAMPLE.match(line)
        if match is None or not match["name"].startswith(_ENGINES):
            continue
        if taken >= SERIES_MAX:
            dropped += 1
            continue
        taken += 1
        # A sample belongs to the family announced last, else to one of its own name.
        name = current if match["name"].startswith(current or "\0") else match["name"]
        labels = f'model="{model_id}"' + (f",{match['labels']}" if match["labels"] else "")
        sample = f"{match['name']}{{{labels}}} {match['value']}"
        families.setdefault(name, _Family()).samples.append(sample)
    return dropped
