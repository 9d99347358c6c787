# SPDX-License-Identifier: Apache-2.0
"""The shared vocabulary, where it says more than its fields."""

from __future__ import annotations

from sparkd.core.observed import ModelReading, Snapshot


def test_models_whose_processes_exist_are_running_in_whatever_state() -> None:
    readings = (ModelReading(model_id="gone"), ModelReading(model_id="loads", running=True))
    snapshot = Snapshot(models={one.model_id: one for one in readings}, lifecycles={})
    assert [one.model_id for one in snapshot.running()] == ["loads"]
