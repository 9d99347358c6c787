# SPDX-License-Identifier: Apache-2.0
"""The transient units of a model as `(name, D-Bus signature, value)` (org.freedesktop.systemd1(5)).

One scope that holds the payload and its conmon, one timer that starts an idle pass. Pure: the
D-Bus adapter sends what stands here.
"""

from __future__ import annotations

from sparkd.core.container.spec import SIGINT
from sparkd.core.model import Lifecycle, ModelSpec
from sparkd.core.names import COMEBACK_TARGET, SLICE, Names

Property = tuple[str, str, object]

_SCOPE_STOP_SLACK_S = 5.0
"""The scope's own SIGKILL comes after Podman's, so that an exit code is still recorded."""

_TIMER_ACCURACY_US = 100_000
"""A model idle by one timeout is to be gone within two seconds; by default it may take a minute."""


def scope_properties(spec: ModelSpec, pids: tuple[int, ...]) -> tuple[Property, ...]:
    """The scope that `pids` (payload and conmon) are moved into."""
    stop_us = int((spec.stop_grace_s + _SCOPE_STOP_SLACK_S) * 1_000_000)
    properties: list[Property] = [
        ("Description", "s", f"sparkd model {spec.model_id}"),
        ("Slice", "s", SLICE),
        ("PIDs", "au", list(pids)),
        ("Delegate", "b", True),
        ("KillSignal", "i", SIGINT),
        ("TimeoutStopUSec", "t", stop_us),
        ("CollectMode", "s", "inactive-or-failed"),
    ]
    if spec.memory_max_bytes is not None:
        properties.append(("MemoryMax", "t", spec.memory_max_bytes))
    if spec.lifecycle is Lifecycle.EXCLUSIVE:
        # However it ends, systemd starts the comeback of models that had to leave for it.
        properties += [(on, "as", [COMEBACK_TARGET]) for on in ("OnSuccess", "OnFailure")]
    return tuple(properties)


def timer_properties(names: Names, *, purpose: str, delay_s: float) -> tuple[Property, ...]:
    """A timer that starts one idle pass of the model in `delay_s`; the pass sets or ends it.

    A pass that sets it may still be ending when it elapses, and a unit that runs cannot be started:
    then the second trigger counts, from the end of that pass.
    """
    delay_us = max(0, int(delay_s * 1_000_000))
    return (
        ("Description", "s", f"sparkd {purpose} check of model {names.model_id}"),
        ("TimersMonotonic", "a(st)", [["OnActiveSec", delay_us], ["OnUnitInactiveSec", delay_us]]),
        ("AccuracyUSec", "t", _TIMER_ACCURACY_US),
        ("RemainAfterElapse", "b", False),
    )
