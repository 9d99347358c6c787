# SPDX-License-Identifier: Apache-2.0
"""A finding: the problem, its effect, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    PROBLEM = "problem"
    """Something does not work."""
    WARNING = "warning"
    """Something works worse than it could, or will not work one day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    code: str
    """Stable, for scripts."""
    level: Level
    what: str
    why: str
    fix: str
    """A command line, or what to do in words where there is none."""


Findings = Iterator[Finding]


def problem(code: str, what: str, why: str, fix: str) -> Finding:
    return Finding(code=code, level=Level.PROBLEM, what=what, why=why, fix=fix)


def warning(code: str, what: str, why: str, fix: str) -> Finding:
    return Finding(code=code, level=Level.WARNING, what=what, why=why, fix=fix)
