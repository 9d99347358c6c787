# SPDX-License-Identifier: Apache-2.0
"""The /metrics pages of running engines as one text, each series labeled with its model.

Prometheus text format 0.0.4. Only what is about the engine is taken: every Python server has
`process_…` and `python_…` series, which the gateway has itself. Families stay together, as the
format demands, and a model has a limited number of series, so that one engine cannot flood all.
A line that Prometheus would refuse is left out, because it refuses the whole page with it: an odd
value, a label twice, a label `model`, an unknown type, or a series that was there already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sparkd.core.engine.step_counters import page_lines
from sparkd.core.numbers import bounded_float

SERIES_MAX = 2000
"""Of one model; vLLM 0.32 has about 500 with one engine."""
_FAMILIES_MAX = 5000
"""Of all models; those announced past it have no text of help."""

_NAME = r"(?:vllm|sglang):[A-Za-z0-9_:]{1,200}"
_LABEL = r'([A-Za-z_][A-Za-z0-9_]*)="(?:[^"\\]|\\["\\n])*"'
_SAMPLE = re.compile(
    rf"(?P<name>{_NAME})(?:\{{(?P<labels>{_LABEL}(?:,{_LABEL})*+,?)?\}})?"
    r" (?P<value>NaN|[+-]?Inf|[^ ]++)(?: [0-9]{1,15})?"
)
_LABEL_NAME = re.compile(_LABEL)
_HEAD = re.compile(
    rf"# (?:(?P<help>HELP) (?P<of>{_NAME}) (?:[^\\]|\\[\\n])*+"
    rf"|TYPE (?P<typed>{_NAME}) (?:counter|gauge|histogram|summary|untyped))"
)
_NO_NUMBERS = frozenset({"NaN", "Inf", "+Inf", "-Inf"})
_LARGEST = 1e300


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
    taken: set[str] = set()
    dropped, current = 0, ""
    for line in page_lines(page):
        head = _HEAD.fullmatch(line)
        if head is not None:
            current = head["of"] or head["typed"]
            _announce(families, current, line)
            continue
        sample = _sample(line, model_id)
        if sample is None or sample.series in taken:
            continue
        if len(taken) >= SERIES_MAX:
            dropped += 1
            continue
        taken.add(sample.series)
        # A sample belongs to the family announced last, else to one of its own name.
        name = current if current and sample.name.startswith(current) else sample.name
        families.setdefault(name, _Family()).samples.append(f"{sample.series} {sample.value}")
    return dropped


def _announce(families: dict[str, _Family], name: str, line: str) -> None:
    if len(families) >= _FAMILIES_MAX:
        return
    head = families.setdefault(name, _Family()).head
    if not any(known.startswith(line[:6] + " ") for known in head):
        head.append(line)


@dataclass(frozen=True, slots=True)
class _Sample:
    name: str
    series: str
    """Its name and labels, that of its model among them."""
    value: str


def _sample(line: str, model_id: str) -> _Sample | None:
    """The sample in a line, if it is one that Prometheus takes."""
    match = _SAMPLE.fullmatch(line)
    if match is None or not _is_value(match["value"]):
        return None
    own = (match["labels"] or "").removesuffix(",")
    names = [found[1] for found in _LABEL_NAME.finditer(own)]
    if "model" in names or len(set(names)) < len(names):
        return None
    labels = f'model="{model_id}"' + (f",{own}" if own else "")
    return _Sample(match["name"], f"{match['name']}{{{labels}}}", match["value"])


def _is_value(text: str) -> bool:
    return text in _NO_NUMBERS or bounded_float(text, most=_LARGEST, least=-_LARGEST) is not None
