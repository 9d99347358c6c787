# SPDX-License-Identifier: Apache-2.0
"""Events as read from the journal and as told to listeners."""

from __future__ import annotations

import json

import pytest

from sparkd.core.telemetry.events import Event, as_json, as_sse, parse

ENTRY = {
    "__REALTIME_TIMESTAMP": "1764150000123456",
    "MESSAGE": "model fake-a is ready after 1.2 s",
    "SPARKD_EVENT": "model-ready",
    "SPARKD_MODEL": "fake-a",
    "SPARKD_DURATION_MS": "1234",
    "_PID": "1",
}


def test_entry_becomes_an_event_with_its_fields() -> None:
    assert parse(json.dumps(ENTRY).encode()) == Event(
        at_us=1764150000123456,
        name="model-ready",
        text="model fake-a is ready after 1.2 s",
        values={"model": "fake-a", "duration_ms": 1234},
    )


def test_entry_without_an_event_is_none() -> None:
    other = {name: value for name, value in ENTRY.items() if name != "SPARKD_EVENT"}
    assert parse(json.dumps(other).encode()) is None


def test_garbage_is_none() -> None:
    for line in (b"", b"{", b"[]", b"null", b'{"__REALTIME_TIMESTAMP": "soon"}', b"\xff"):
        assert parse(line) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"__REALTIME_TIMESTAMP": float("inf")},
        {"__REALTIME_TIMESTAMP": "\u00b2"},
        {"SPARKD_EVENT": "model-ready\ndata: x"},
    ],
)
def test_entry_that_nothing_of_ours_wrote_is_none(fields: dict[str, object]) -> None:
    assert parse(json.dumps({**ENTRY, **fields}).encode()) is None
    assert parse(b'{"SPARKD_EVENT":' + b"[" * 100_000) is None


def test_odd_values_of_fields_are_text_or_nothing() -> None:
    odd = {"exit_code": "--5", "status": "\u00b2", "percent": "9" * 5000}
    fields = {f"SPARKD_{name.upper()}": value for name, value in odd.items()}
    event = parse(json.dumps({**ENTRY, **fields, "MESSAGE": [300, -1]}).encode())
    assert event is not None
    assert {name: event.values[name] for name in odd} == odd
    assert event.text == ""


def test_text_that_journalctl_writes_as_bytes_is_text() -> None:
    event = parse(json.dumps({**ENTRY, "MESSAGE": list("gr\u00fcn\x1b".encode())}).encode())
    assert event is not None
    assert event.text == "gr\u00fcn\x1b"


def test_model_with_a_number_for_a_name_keeps_it() -> None:
    event = parse(json.dumps({**ENTRY, "SPARKD_MODEL": "123"}).encode())
    assert event is not None
    assert event.values["model"] == "123"


def test_field_that_stands_twice_counts_once() -> None:
    event = parse(json.dumps({**ENTRY, "SPARKD_MODEL": ["a", "b"]}).encode())
    assert event is not None
    assert event.values["model"] == "b"
    event = parse(json.dumps({**ENTRY, "SPARKD_MODEL": [[97], [98]]}).encode())
    assert event is not None
    assert event.values["model"] == "b"


def test_no_field_can_pose_as_the_name_or_the_time() -> None:
    event = parse(json.dumps({**ENTRY, "SPARKD_AT": "0"}).encode())
    assert event is not None
    assert as_json(event)["at"] == 1764150000.123456
    assert as_json(event)["event"] == "model-ready"


def test_sse_form_has_id_event_and_one_line_of_data() -> None:
    event = parse(json.dumps({**ENTRY, "MESSAGE": "two\nlines"}).encode())
    assert event is not None
    head, name, data, *rest = as_sse(event).decode().split("\n")
    assert (head, name, rest) == ("id: 1764150000123456", "event: model-ready", ["", ""])
    assert json.loads(data.removeprefix("data: "))["text"] == "two\nlines"
