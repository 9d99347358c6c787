# SPDX-License-Identifier: Apache-2.0
"""The shared vocabulary, where it says more than its fields."""

from __future__ import annotations

from sparkd.core.observed import ModelReading, State, World


def test_models_whose_processes_exist_are_running_in_whatever_state() -> None:
    models = {state.value: ModelReading(model_id=state.value, state=state) for state in State}
    running = World(models=models, lifecycles={}).running()
    assert {reading.state for reading in running} == set(State) - {State.STOPPED, State.FAILED}
