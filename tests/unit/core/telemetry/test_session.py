# SPDX-License-Identifier: Apache-2.0
"""Sessions: what a model took, and that each is counted once, whoever was there at its end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sparkd.adapters.proc import usage
from sparkd.core.json.typed import restored
from sparkd.core.names import Layout
from sparkd.core.observed import Endpoint, Instance
from sparkd.core.telemetry.session import RECENT_MAX, EndReason, Session, Totals, added, begun, kept
from sparkd.lifecycle.sessions import Sessions
from sparkd.observe.session_statistics import reference_stats, statistics

GIB = 1 << 30


def session(container_id: str = "c", **changes: object) -> Session:
    values: dict[str, object] = {
        "container_id": container_id,
        "pid": 1,
        "pid_started": 1,
        "started_at": 100.0,
        "seen_at": 110.0,
    }
    return Session(**{**values, **changes})  # type: ignore[arg-type]


def test_memory_is_what_the_load_took_and_what_its_processes_grew_since() -> None:
    begin = begun(session(), own_bytes=2 * GIB, grown_bytes=60 * GIB)
    later = begin.sampled(3 * GIB, 120.0).sampled(1 * GIB, 130.0)
    assert (later.min_bytes, later.max_bytes) == (59 * GIB, 61 * GIB)
    assert later.mean_bytes == 60 * GIB
    assert later.seen_at == 130.0


def test_memory_that_others_gave_back_meanwhile_does_not_hide_its_own() -> None:
    begin = begun(session(), own_bytes=2 * GIB, grown_bytes=-5 * GIB)
    assert begin.max_bytes == 2 * GIB


def test_model_that_was_found_has_what_its_processes_have() -> None:
    assert begun(session(), own_bytes=2 * GIB, grown_bytes=None).max_bytes == 2 * GIB


def test_totals_add_up() -> None:
    one = session("a", load_s=4.0, ended_at=130.0, reason=EndReason.IDLE).sampled(10, 120.0)
    two = session("b", load_s=None, ended_at=120.0, reason=EndReason.EVICTED).sampled(30, 110.0)
    totals = added(added(Totals(), one), two)
    assert (totals.sessions, totals.duration_s) == (2, 50.0)
    assert (totals.loads, totals.load_s) == (1, 4.0)
    assert totals.ends == {"idle": 1, "evicted": 1}
    assert (totals.min_bytes, totals.mean_bytes, totals.max_bytes) == (10, 20, 30)


def test_session_counts_once() -> None:
    once = added(Totals(), session("a", ended_at=120.0, reason=EndReason.IDLE))
    assert added(once, session("a", ended_at=120.0, reason=EndReason.IDLE)) is once


def test_least_memory_is_the_least_that_was_any() -> None:
    totals = added(added(Totals(), session("a").sampled(0, 1.0)), session("b").sampled(5, 1.0))
    assert totals.min_bytes == 5


def test_only_the_last_sessions_are_kept_one_by_one() -> None:
    totals = Totals()
    for number in range(RECENT_MAX + 5):
        totals = added(totals, session(str(number), started_at=float(number)))
    assert totals.sessions == RECENT_MAX + 5
    assert [one["started_at"] for one in totals.recent] == [float(n) for n in range(5, 25)]


@pytest.mark.parametrize("value", [session(load_s=1.0), added(Totals(), session())])
def test_what_is_written_is_read_again(value: Session | Totals) -> None:
    assert restored(type(value), kept(value)) == value


def test_what_a_newer_version_wrote_is_read_and_what_is_no_session_is_not() -> None:
    assert restored(Session, {**kept(session()), "later": 1}) == session()
    assert restored(Session, {"pid": 1}) is None


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(Layout(runtime_dir=tmp_path / "run", state_dir=tmp_path / "state"))


def instance(container_id: str = "c1", pid: int | None = None, started_at: float = 0) -> Instance:
    return Instance(
        model_id="org/m",
        container_id=container_id,
        pid=os.getpid() if pid is None else pid,
        spec_hash="",
        endpoint=Endpoint(port=1),
        started_at=started_at,
        started_s=0.0,
    )


def test_running_session_is_visible_and_counted(sessions: Sessions) -> None:
    assert sessions.session_stats("org/m") is None
    sessions.open(instance(), load_s=2.0, grown_bytes=GIB)
    session_stats = sessions.all()["org/m"]
    assert session_stats.running is not None
    assert (session_stats.totals.sessions, session_stats.totals.loads) == (1, 1)
    assert session_stats.totals.duration_s > 1e9
    assert statistics(session_stats)["running"] is not None
    assert reference_stats(session_stats)["running"] is True


def test_session_ends_once_and_stays_ended(sessions: Sessions) -> None:
    sessions.open(instance(), load_s=2.0, grown_bytes=GIB)
    sessions.end("org/m", EndReason.IDLE)
    sessions.end("org/m", EndReason.ENDED)
    sessions.sample("org/m")
    session_stats = sessions.session_stats("org/m")
    assert session_stats is not None
    assert session_stats.running is None
    assert session_stats.totals.ends == {"idle": 1}


def test_session_whose_process_is_gone_has_ended_when_it_was_last_seen(sessions: Sessions) -> None:
    sessions.open(instance(pid=2**22 + 1), load_s=2.0, grown_bytes=GIB)
    session_stats = sessions.session_stats("org/m")
    assert session_stats is not None
    assert session_stats.running is None
    assert session_stats.totals.ends == {"ended": 1}


def test_model_that_is_being_stopped_has_not_ended_by_itself(sessions: Sessions) -> None:
    process = subprocess.Popen(["sleep", "60"])
    sessions.open(instance(pid=process.pid), load_s=2.0, grown_bytes=GIB)
    sessions.sample("org/m", stopping=EndReason.EVICTED)
    process.kill()
    process.wait()
    session_stats = sessions.session_stats("org/m")
    assert session_stats is not None
    assert session_stats.totals.ends == {"evicted": 1}, "whoever stops it has not said so yet"
    sessions.end("org/m", EndReason.ENDED)
    assert sessions.all()["org/m"].totals.ends == {"evicted": 1}, "and was killed before he could"


def test_model_that_died_before_it_could_be_stopped_has_ended_by_itself(
    sessions: Sessions,
) -> None:
    sessions.open(instance(pid=2**22 + 1), load_s=2.0, grown_bytes=GIB)
    sessions.sample("org/m", stopping=EndReason.EVICTED)
    sessions.end("org/m", EndReason.EVICTED)
    assert sessions.all()["org/m"].totals.ends == {"ended": 1}, "as it was told before"


def test_model_that_lives_on_after_a_stop_that_was_given_up_may_end_by_itself(
    sessions: Sessions,
) -> None:
    sessions.open(instance(), load_s=2.0, grown_bytes=GIB)
    sessions.sample("org/m", stopping=EndReason.IDLE)
    sessions.sample("org/m")
    sessions.end("org/m", EndReason.ENDED)
    assert sessions.all()["org/m"].totals.ends == {"ended": 1}


def test_session_that_was_left_open_is_counted_when_the_next_one_begins(
    sessions: Sessions,
) -> None:
    sessions.open(instance("c1", pid=2**22 + 1), load_s=2.0, grown_bytes=GIB)
    sessions.open(instance("c2"), load_s=2.0, grown_bytes=GIB)
    session_stats = sessions.session_stats("org/m")
    assert session_stats is not None
    assert session_stats.running is not None
    assert (session_stats.totals.sessions, session_stats.totals.ends) == (2, {"ended": 1})


def test_model_that_is_found_again_goes_on_with_its_session(sessions: Sessions) -> None:
    sessions.open(instance(), load_s=2.0, grown_bytes=GIB)
    sessions.open(instance(), load_s=None, grown_bytes=None)
    session_stats = sessions.session_stats("org/m")
    assert session_stats is not None
    assert (session_stats.totals.sessions, session_stats.totals.loads) == (1, 1)


def test_kill_between_adding_and_removing_counts_once(sessions: Sessions) -> None:
    sessions.open(instance(), load_s=2.0, grown_bytes=GIB)
    (running,) = (sessions.layout.stats_dir / "running").iterdir()
    left = running.read_bytes()
    sessions.end("org/m", EndReason.IDLE)
    running.write_bytes(left)
    sessions.end("org/m", EndReason.ENDED)
    session_stats = sessions.session_stats("org/m")
    assert session_stats is not None
    assert (session_stats.running, session_stats.totals.sessions) == (None, 1)
    assert session_stats.totals.ends == {"idle": 1}


def test_file_that_cannot_be_read_counts_as_absent(sessions: Sessions) -> None:
    sessions.open(instance(), load_s=2.0, grown_bytes=GIB)
    sessions.end("org/m", EndReason.IDLE)
    (totals,) = (sessions.layout.stats_dir / "sessions").iterdir()
    totals.write_text("{")
    assert sessions.session_stats("org/m") is None


def test_usage_of_this_process_is_not_nothing() -> None:
    ours = usage.usage(os.getpid())
    assert ours.memory_bytes > 1 << 20
    assert ours.processes == 1
    assert usage.start_of(os.getpid()) == usage.start_of(os.getpid()) is not None
    assert usage.usage(2**22 + 1).processes == 0


def test_process_that_ended_and_was_not_waited_for_does_not_run() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert usage.start_of(process.pid) is None
    process.wait()
