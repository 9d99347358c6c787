# SPDX-License-Identifier: Apache-2.0
"""Transient units: the properties systemd is given, in its own types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparkd.core.container.units import Property, scope_properties, timer_properties
from sparkd.core.model import Lifecycle, ModelSpec
from sparkd.core.names import Names

SPEC = ModelSpec(model_id="m", image="i")
EXCLUSIVE = replace(SPEC, lifecycle=Lifecycle.EXCLUSIVE)


def by_name(properties: tuple[Property, ...]) -> dict[str, Any]:
    assert len({name for name, _, _ in properties}) == len(properties)
    return {name: value for name, _, value in properties}


def test_scope_takes_in_payload_and_conmon_under_the_slice() -> None:
    properties = by_name(scope_properties(SPEC, (42, 43)))
    assert properties["PIDs"] == [42, 43]
    assert properties["Slice"] == "sparkd.slice"
    assert properties["Delegate"] is True
    assert properties["Description"] == "sparkd model m"


def test_scope_is_collected_even_when_it_failed() -> None:
    assert by_name(scope_properties(SPEC, (1,)))["CollectMode"] == "inactive-or-failed"


def test_scope_is_stopped_by_the_signal_that_vllm_obeys_at_any_time() -> None:
    assert by_name(scope_properties(SPEC, (1,)))["KillSignal"] == 2


def test_scope_kills_later_than_podman_does() -> None:
    spec = ModelSpec(model_id="m", image="i", stop_grace_s=7.5)
    assert by_name(scope_properties(spec, (1,)))["TimeoutStopUSec"] > 7_500_000


def test_memory_limit_is_set_only_where_it_is_configured() -> None:
    limited = ModelSpec(model_id="m", image="i", memory_max_bytes=1 << 34)
    assert by_name(scope_properties(limited, (1,)))["MemoryMax"] == 1 << 34
    assert "MemoryMax" not in by_name(scope_properties(SPEC, (1,)))


@pytest.mark.parametrize(
    ("delay_s", "delay_us"), [(1.5, 1_500_000), (0, 0), (-3, 0), (604_800, 604_800_000_000)]
)
def test_timer_elapses_after_its_delay_and_again_after_a_pass_that_was_still_ending(
    delay_s: float, delay_us: int
) -> None:
    properties = by_name(timer_properties(Names("m"), purpose="idle", delay_s=delay_s))
    assert properties["TimersMonotonic"] == [
        ["OnActiveSec", delay_us],
        ["OnUnitInactiveSec", delay_us],
    ]
    assert properties["RemainAfterElapse"] is False
    assert properties["Description"] == "sparkd idle check of model m"


def test_timer_is_accurate_to_a_fraction_of_a_second() -> None:
    properties = by_name(timer_properties(Names("m"), purpose="load", delay_s=1))
    assert properties["AccuracyUSec"] <= 1_000_000


def test_values_are_of_the_types_their_signatures_say() -> None:
    spec = replace(EXCLUSIVE, memory_max_bytes=1 << 34)
    lists = {"au": list, "as": list, "a(st)": list}
    kinds: dict[str, type] = {"s": str, "b": bool, "i": int, "t": int, **lists}
    for properties in (
        scope_properties(spec, (1, 2)),
        timer_properties(Names("m"), purpose="idle", delay_s=1.5),
    ):
        for name, signature, value in properties:
            assert type(value) is kinds[signature], name


def test_end_of_an_exclusive_model_alone_starts_the_comebacks() -> None:
    exclusive = by_name(scope_properties(EXCLUSIVE, (1,)))
    assert exclusive["OnSuccess"] == exclusive["OnFailure"] == ["sparkd-comeback.target"]
    assert not {"OnSuccess", "OnFailure"} & by_name(scope_properties(SPEC, (1,))).keys()
