# SPDX-License-Identifier: Apache-2.0
"""What `sparkctl events`, `stats` and `top` print."""

from __future__ import annotations

import json

from sparkd.core.scheduling.memory import HostMemory
from sparkd.core.telemetry.events import Event
from sparkd.core.telemetry.session import EndReason, Session, Totals, added
from sparkd.lifecycle.sessions import SessionStats
from sparkd.observe.resource_usage import ModelUsage, UsageSnapshot
from sparkd.sparkctl.arguments import parse
from sparkd.sparkctl.commands import events, stats, top

GIB = 1 << 30


def session(**changes: object) -> Session:
    values: dict[str, object] = {
        "container_id": "c",
        "pid": 1,
        "pid_started": 1,
        "started_at": 100.0,
        "seen_at": 190.0,
        "load_s": 75.0,
    }
    return Session(**{**values, **changes})  # type: ignore[arg-type]


def test_stats_tell_of_runs_and_why_they_ended() -> None:
    ended = session(ended_at=190.0, reason=EndReason.IDLE).sampled(3 * GIB, 150.0)
    running = session(container_id="d", started_at=400.0, seen_at=460.0)
    totals = added(Totals(), ended)
    found = {
        "a": SessionStats(totals, None),
        "b": SessionStats(added(totals, running), running),
    }
    assert stats.text(found, now=250.0).splitlines() == [
        "MODEL  RUNS  RUN TIME  LOAD   MEM MIN  MEAN     MAX      LAST RUN  ENDED BY",
        "a      1     1m30s     1m15s  3.0 GiB  3.0 GiB  3.0 GiB  1m ago    idle 1",
        "b      2     2m30s     1m15s  3.0 GiB  3.0 GiB  3.0 GiB  now       idle 1",
    ]


def test_stats_of_nothing_say_so() -> None:
    assert stats.text({}, now=0.0) == "no model has run yet"


def row(**changes: object) -> ModelUsage:
    values: dict[str, object] = {
        "model_id": "a",
        "state": "busy",
        "requests": 3,
        "cpu_s": 9.0,
        "cpu_percent": 123.4,
        "memory_bytes": 60 * GIB,
        "processes": 7,
        "up_s": 75.0,
    }
    return ModelUsage(**{**values, **changes})  # type: ignore[arg-type]


def reading(*rows: ModelUsage, holders: tuple[str, ...] = ()) -> UsageSnapshot:
    memory = HostMemory(total_bytes=100 * GIB, available_bytes=40 * GIB, reserve_bytes=4 * GIB)
    return UsageSnapshot(at_s=1.0, rows=rows, memory=memory, holders=holders)


def test_top_shows_memory_gpu_and_models() -> None:
    starting = row(model_id="b", state="starting", requests=0, cpu_percent=None, up_s=None)
    found = reading(row(), starting, holders=("a", "python\x1b[2J train.py"))
    assert top.text(found).splitlines() == [
        "memory  [##################............] 60.0 GiB of 100 GiB used, 4.0 GiB kept free",
        "GPU     a, python [2J train.py",
        "",
        "MODEL  STATE     REQUESTS  CPU    MEMORY    PROCESSES  UP     IDLE",
        "a      busy      3         123 %  60.0 GiB  7          1m15s  -",
        "b      starting  0         -      60.0 GiB  7          -      -",
    ]


def test_top_of_nothing_says_so() -> None:
    assert top.text(reading()).splitlines()[1:] == ["GPU     free", "", "no model is running"]


def test_top_as_json_has_ids_and_numbers() -> None:
    found = json.loads(json.dumps(top.as_json(reading(row(), holders=("a",)))))
    assert found["models"][0]["id"] == "a"
    assert found["models"][0]["memory_bytes"] == 60 * GIB
    assert (found["gpu"], found["memory"]["available_bytes"]) == (["a"], 40 * GIB)


def test_event_cannot_steer_a_terminal() -> None:
    said = Event(at_us=0, name="model-failed", text="it said: \x1b[2J\nbye", values={})
    assert "\x1b" not in events.text(said)
    assert "\n" not in events.text(said)


def test_events_leave_requests_out_unless_asked() -> None:
    requests = "MESSAGE_ID=1fa85c7e20d94b6bb3e7f4960a5d2c83"
    assert requests not in events.command(parse(["events"]), 7)
    words = events.command(parse(["events", "--all", "-n", "5", "m"]), 7)
    assert requests in words
    assert {"SPARKD_MODEL=m", "--lines=5", "_UID=7"} <= set(words)
    assert "--follow" not in words


def test_events_that_are_followed_begin_with_the_last_ten() -> None:
    words = events.command(parse(["events", "-f"]), 7)
    assert {"--lines=10", "--follow"} <= set(words)
