# SPDX-License-Identifier: Apache-2.0
"""The state of a model: each piece of evidence, and the words that the documentation explains."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import product

import pytest

from sparkd.core.model_state import RESIDENT, Evidence, State, describe
from tests.unit.project.sources import ROOT

LOADED = {"running": True, "ready": True}


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, State.STOPPED),
        ({"dead": True}, State.FAILED),
        ({"dead": True, "failures": 1}, State.BACKING_OFF),
        ({"dead": True, "failures": 1, "waiters": 2}, State.QUEUED),
        ({"waiters": 1, "loading": True}, State.STARTING),
        # A load without waiters that has no scope yet.
        ({"loading": True}, State.STOPPED),
        ({"running": True}, State.STARTING),
        ({"running": True, "in_transition": True, "in_use": True}, State.STARTING),
        (LOADED, State.READY),
        (LOADED | {"in_use": True}, State.BUSY),
        (LOADED | {"in_use": True, "in_transition": True}, State.STOPPING),
        (LOADED | {"asleep": True}, State.SLEEPING),
        # Its server does not answer while it sleeps, or it does: that depends on the reader.
        ({"running": True, "asleep": True}, State.SLEEPING),
        (LOADED | {"asleep": True, "in_transition": True}, State.STARTING),
        # Waiters and old failures say nothing about a model that runs.
        (LOADED | {"waiters": 3, "failures": 2, "dead": True}, State.READY),
    ],
)
def test_evidence_gives_the_state(facts: dict[str, int], state: State) -> None:
    assert describe(Evidence(**facts)) is state


def test_models_with_a_process_are_resident_and_no_others() -> None:
    numbers = [(field.name, (0, 1)) for field in fields(Evidence)]
    for values in product(*(choice for _, choice in numbers)):
        facts = dict(zip((name for name, _ in numbers), values, strict=True))
        evidence = Evidence(**facts)
        if evidence.running:
            assert describe(evidence) in RESIDENT
        elif not evidence.loading:
            assert describe(evidence) not in RESIDENT


def test_documentation_explains_each_state_and_no_other() -> None:
    text = (ROOT / "docs/models.md").read_text()
    table = text[text.index("| State | Means |") : text.index("| Key | Decides |")]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == [state.value for state in State]
