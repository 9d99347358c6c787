# SPDX-License-Identifier: Apache-2.0
"""What security.md says is tested is tested: every line of its threats names tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.unit.project.sources import ROOT

TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}


def threats() -> list[list[str]]:
    """The rows of the tables below `## Threats`, without their heads."""
    text = (ROOT / "docs/security.md").read_text()
    section = text.split("\n## Threats\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[0] != "Tries"]


@pytest.mark.parametrize("row", threats(), ids=lambda row: row[0])
def test_every_threat_names_a_test_that_exists_or_says_untested(row: list[str]) -> None:
    assert len(row) == 3
    named = re.findall(r"`(\w+)`", row[2])
    assert named, row
    assert named == ["untested"] or set(named) <= TESTS, set(named) - TESTS


def test_every_kind_of_attacker_is_there() -> None:
    text = (ROOT / "docs/security.md").read_text()
    section = text.split("\n## Threats\n", 1)[1].split("\n## ", 1)[0]
    assert section.count("\n### ") == 5
    assert len(threats()) > 30
