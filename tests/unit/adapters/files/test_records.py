# SPDX-License-Identifier: Apache-2.0
"""What is remembered of models, where it cannot be written: what may be lost, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd.adapters.files.records import Records, SleepMarker
from sparkd.core.errors import HostError
from sparkd.core.names import Layout


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """A runtime and a state directory in which nothing can be made."""
    (tmp_path / "file").touch()
    return Records(Layout(runtime_dir=tmp_path / "file", state_dir=tmp_path / "file"))


def test_pin_and_nap_that_cannot_be_noted_are_errors(records: Records) -> None:
    with pytest.raises(HostError, match=r"cannot make .*/pins: Not a directory"):
        records.pin("m")
    with pytest.raises(HostError, match=r"cannot make .*/asleep: Not a directory"):
        records.add_sleep_marker("m", SleepMarker(container_id="c", answer="a"))
    assert not records.pinned("m")


def test_load_or_comeback_that_cannot_be_noted_is_told_and_no_error(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    records.add_load("m", 2.0, None)
    records.add_comeback("m", made_room_for="other")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all("cannot remember" in record.getMessage() for record in caplog.records)
    assert records.loads("m").durations_s == ()
