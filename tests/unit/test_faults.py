# SPDX-License-Identifier: Apache-2.0
"""Every point at which a process can be made to die has a test on a booted host that does so."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.system.test_scheduling import KILL_POINTS

PROGRAM = Path(__file__).resolve().parents[2] / "sparkd"


def points() -> list[str]:
    """The arguments of all calls of `reach`."""
    return [
        ast.literal_eval(node.args[0])
        for path in PROGRAM.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "reach"
    ]


def test_every_fault_point_has_a_kill_test_and_every_kill_test_a_point() -> None:
    assert sorted(points()) == sorted(KILL_POINTS)
