# SPDX-License-Identifier: Apache-2.0
"""Every point at which a process can be made to die has a test that has it die there."""

from __future__ import annotations

import ast

from tests.system.test_abandoned import ABANDONED_POINTS
from tests.system.test_scheduling import KILL_POINTS
from tests.system.test_sleep import NAP_POINTS
from tests.unit.project.sources import PATHS, ROOT, calls_of


def points() -> set[str]:
    """The arguments of all calls of `reach`."""
    return {ast.literal_eval(call.args[0]) for call in calls_of({"failpoint"}, PATHS)}


def test_every_step_of_start_stop_and_swap_has_a_kill_test_and_every_kill_test_a_step() -> None:
    assert {point for point in points() if not point.startswith("pull-")} == {
        *KILL_POINTS,
        *NAP_POINTS,
        *ABANDONED_POINTS,
    }


def test_every_step_of_a_pull_has_a_kill_test() -> None:
    tested = (ROOT / "tests/integration/test_pull.py").read_text()
    untested = {p for p in points() if p.startswith("pull-") and f'"{p}"' not in tested}
    assert untested == set()
