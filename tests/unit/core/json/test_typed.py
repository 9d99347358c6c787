# SPDX-License-Identifier: Apache-2.0
"""Records out of files: each field of its declared type, or no record."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sparkd.adapters.files.records import Failure, Loads, Records, SleepMarker, recall
from sparkd.core.json.typed import restored
from sparkd.core.names import Layout, Names
from sparkd.core.telemetry.session import Session, Totals

FAILURE = Failure(count=1, at_s=2.5, spec_hash="h", code="c", message="m", hint="", http_status=502)
SESSION = Session(container_id="c", pid=1, pid_started=2, started_at=3.0, seen_at=4.0)


@pytest.mark.parametrize(
    "record",
    [
        *(FAILURE, SleepMarker(container_id="c", answer="8")),
        *(Loads(), Loads(durations_s=(1.0, 2.5), peaks_bytes=(3,))),
        *(SESSION, replace(SESSION, load_s=1.5, reason="idle"), Totals()),
        Totals(
            sessions=1, ends={"idle": 1}, recent=({"reason": None, "load_s": 1.5, "samples": 2},)
        ),
    ],
)
def test_record_comes_back_as_it_was_written(record: Any) -> None:
    assert restored(type(record), json.loads(json.dumps(asdict(record)))) == record


def test_key_of_a_newer_release_is_left_out() -> None:
    assert restored(Failure, {**asdict(FAILURE), "new": [1]}) == FAILURE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("count", value) for value in ("1", 1.5, None, True, [], {}, 1 << 70)),
        *(("at_s", value) for value in ("1", None, float("nan"), float("inf"), 1e300, [])),
        *(("message", value) for value in (1, None, [], "\ud800", "x" * (1 << 17))),
    ],
)
def test_wrong_value_is_no_record(name: str, value: object) -> None:
    assert restored(Failure, {**asdict(FAILURE), name: value}) is None


def test_missing_value_is_no_record() -> None:
    assert restored(Failure, {"count": 1}) is None


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff", b"[]", b"3", b"[" * 200_000, b'{"durations_s": "abc"}', b'{"a": NaN}'),
        *(b'{"durations_s": ["x"]}', b'{"durations_s": [NaN]}', b'{"peaks_bytes": [1e400]}'),
        *(b'{"durations_s": {"a": 1}}', b'{"peaks_bytes": [%s]}' % (b"9" * 5000)),
    ],
)
def test_file_with_anything_in_it_is_no_loads(tmp_path: Path, content: bytes) -> None:
    layout = Layout(state_dir=tmp_path, runtime_dir=tmp_path)
    path = layout.stats_dir / f"{Names('m').escaped}.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert Records(layout).loads("m") == Loads()
    assert isinstance(recall(path), dict)
