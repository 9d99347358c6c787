# SPDX-License-Identifier: Apache-2.0
"""What the commands of `sparkctl` print of a given world: tables, times, JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sparkd.adapters.systemd import systemctl
from sparkd.core.catalog.presence import Missing, Part
from sparkd.core.errors import SparkdError
from sparkd.core.model import Config, Dialect, Lifecycle, ModelSpec, Problem
from sparkd.core.observed import (
    DeadContainer,
    Endpoint,
    Instance,
    LockHolder,
    ModelReading,
    Snapshot,
)
from sparkd.core.scheduling.memory import HostMemory
from sparkd.scheduling.queue import Progress
from sparkd.sparkctl import output, system_units
from sparkd.sparkctl.arguments import parse
from sparkd.sparkctl.commands import check, logs, models, ps, start, status, stop
from sparkd.sparkctl.commands.start import Started
from sparkd.sparkctl.commands.status import Overview
from sparkd.sparkctl.system_units import SystemUnit
from sparkd.sparkctl.waiting import Waiting

DOCUMENTATION = (Path(__file__).resolve().parents[3] / "docs/reference/cli.md").read_text()
NOW = 1_790_000_000.0
PROBLEM = Problem(source="/etc/x.yaml", line=7, path="models.bad.gup", message="unknown key 'gup'")

CONFIG = Config(
    models={
        "small": ModelSpec(model_id="small", image="i", lifecycle=Lifecycle.UTILITY),
        "large": ModelSpec(
            model_id="large", image="i", max_model_len=131072, dialects=(Dialect.CHAT,)
        ),
    },
    broken={"bad": (PROBLEM,)},
    problems=(PROBLEM,),
)

READY = ModelReading(
    model_id="large",
    running=True,
    ready=True,
    instance=Instance(
        model_id="large",
        container_id="c0ffee",
        pid=4242,
        spec_hash="abc",
        endpoint=Endpoint(socket=Path("/run/sparkd/models/large/api.sock")),
        started_at=NOW - 192,
        started_s=100.0,
    ),
    in_use=True,
    last_used_at=NOW - 5,
    idle_check_at=NOW + 61.5,
)
ORPHAN = ModelReading(model_id="org/gone", running=True)
DEAD = ModelReading(
    model_id="small",
    dead=DeadContainer(container_id="d", exit_code=3, finished_at=NOW),
)
SNAPSHOT = Snapshot(
    models={one.model_id: one for one in (READY, ORPHAN, DEAD)},
    lifecycles={"small": Lifecycle.UTILITY, "large": Lifecycle.NORMAL},
)
SOCKET = SystemUnit(
    unit="sparkd.socket", state="active", enabled="enabled", listen=("127.0.0.1:8009",)
)
SERVICE = SystemUnit(unit="sparkd.service", state="inactive", enabled="static")


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (-3, "0s"),
        (0.9, "0s"),
        (42.7, "42s"),
        (60, "1m"),
        (192, "3m12s"),
        (3600, "1h"),
        (3605, "1h"),
        (7500, "2h5m"),
        (97_200, "1d3h"),
        (86_400 * 40, "40d"),
    ],
)
def test_ages_have_at_most_two_units(duration_s: float, text: str) -> None:
    assert output.age(duration_s) == text


def test_times_in_json_are_utc_and_absent_times_are_null() -> None:
    assert output.timestamp(0.75) == "1970-01-01T00:00:00Z"
    assert output.timestamp(None) is None


def test_columns_of_a_table_are_aligned_without_trailing_blanks() -> None:
    text = output.table(("A", "B", "C"), [("long one", "x", "y"), ("z", "", "")])
    assert text == "A         B  C\nlong one  x  y\nz"


def test_an_error_is_one_line_that_cannot_steer_a_terminal_and_a_hint() -> None:
    error = SparkdError("died: \x1b[2J\nbad\x07", hint="sparkctl logs x")
    assert output.error_text(error) == "sparkctl: died:  [2J bad \n  hint: sparkctl logs x"
    assert output.error_text(SparkdError("died")) == "sparkctl: died"


def test_models_lists_the_catalog_with_the_states_of_the_world() -> None:
    lacking = Missing(part=Part.IMAGE, code="image_missing", text="its image", hint="build it")
    listed = models.listing(CONFIG, SNAPSHOT, {"small": (lacking,)})
    assert models.text(listed).splitlines() == [
        "MODEL  LOCAL    LIFECYCLE  STATE    STATUS        CONTEXT  DIALECTS",
        "bad    unknown  -          stopped  -             -        -",
        "large  yes      normal     busy     experimental  131072   chat",
        "small  no       utility    failed   experimental  -        chat,completions",
        "bad cannot be started: /etc/x.yaml:7: models.bad.gup: unknown key 'gup'",
    ]


def test_models_without_a_world_have_unknown_states() -> None:
    assert {one.state for one in models.listing(CONFIG, None, {})} == {"unknown"}


def test_an_empty_catalog_says_where_models_go() -> None:
    assert "/etc/sparkd/models.d" in models.text(models.listing(Config(), SNAPSHOT, {}))


def test_ps_lists_what_runs_and_nothing_else() -> None:
    assert ps.text(ps.running(SNAPSHOT), NOW).splitlines() == [
        "MODEL     STATE     UP     IN USE  IDLE CHECK  PID   "
        "ENDPOINT                                SCOPE",
        "large     busy      3m12s  yes     in 1m1s     4242  "
        "unix:/run/sparkd/models/large/api.sock  sparkd-model-large.scope",
        "org/gone  starting  -      no      -           -     "
        "-                                       sparkd-model-org\\x2fgone.scope",
    ]
    assert ps.text([], NOW) == "no model is running"


def test_ps_as_json_has_the_same_keys_for_a_model_whose_container_is_gone() -> None:
    whole, orphan = (ps.as_json(one) for one in ps.running(SNAPSHOT))
    assert whole.keys() == orphan.keys()
    assert (whole["started_at"], whole["pid"]) == ("2026-09-21T14:10:08Z", 4242)
    assert (orphan["started_at"], orphan["pid"], orphan["endpoint"]) == (None, None, None)


def test_ps_shows_no_time_for_a_timer_that_has_fired() -> None:
    fired = replace(READY, idle_check_at=NOW + (2**64 - 1) / 1_000_000)
    assert ps.as_json(fired)["idle_check_at"] is None
    assert ps.text([fired], NOW).splitlines()[1].split()[4] == "-"


@pytest.mark.parametrize(
    ("holders", "line"),
    [
        ((), "GPU       free"),
        (
            (LockHolder(pid=9, command="python train.py", exclusive=True),),
            "GPU       held alone by pid 9, 'python train.py'",
        ),
        (
            (
                LockHolder(pid=4242, command="vllm", exclusive=False, model_id="large"),
                LockHolder(pid=7, command="a\x1bb", exclusive=False),
            ),
            "GPU       held by model large (pid 4242), held by pid 7, 'a b'",
        ),
    ],
)
def test_status_names_who_holds_the_gpu(holders: tuple[LockHolder, ...], line: str) -> None:
    overview = Overview(socket=SOCKET, service=SERVICE, holders=holders, config=CONFIG, running=())
    assert line in status.text(overview, NOW).splitlines()


def test_status_of_a_host_at_rest() -> None:
    overview = Overview(
        socket=SOCKET,
        service=SERVICE,
        holders=(),
        config=Config(models=CONFIG.models),
        running=(),
        queue=(),
        memory=HostMemory(total_bytes=128 << 30, available_bytes=100 << 30, reserve_bytes=4 << 30),
    )
    assert status.text(overview, NOW).splitlines()[1:] == [
        "socket    active, enabled, listens on 127.0.0.1:8009",
        "service   inactive, starts with the next request",
        "GPU       free",
        "memory    100.0 of 128.0 GiB available, less 4.0 reserve",
        "models    2 models, none is running",
        "queue     nobody waits",
        "config    ok",
    ]


def test_status_of_a_host_at_work() -> None:
    service = SystemUnit(unit="sparkd.service", state="active", enabled="static", pid=77)
    overview = Overview(
        socket=SOCKET,
        service=service,
        holders=(),
        config=CONFIG,
        running=(READY, ORPHAN),
        queue=(
            Waiting(model="a", waiting=2, oldest_s=72.4, loading=False, why="large is in use"),
            Waiting(model="b", waiting=1, oldest_s=5, loading=True, why="loading"),
        ),
        memory=HostMemory(
            total_bytes=24 << 30, available_bytes=3 << 30, reserve_bytes=0, unified=False
        ),
    )
    lines = status.text(overview, NOW).splitlines()
    assert lines[2] == "service   active, pid 77"
    assert lines[4] == "memory    3.0 of 24.0 GiB available, of the GPU"
    assert lines[5] == "models    3 models, running: large (busy, up 3m12s), org/gone (starting)"
    assert lines[6] == (
        "queue     2 for a, the first since 1m12s: large is in use; 1 for b, the first since 5s: "
        "loading"
    )
    assert lines[7] == "config    1 problem, see them with: sparkctl check"


def test_status_says_what_it_could_not_find_out() -> None:
    nothing = SystemUnit(unit="sparkd.socket")
    overview = Overview(socket=nothing, service=nothing, holders=(), config=CONFIG)
    lines = status.text(overview, NOW).splitlines()
    assert lines[1:3] == ["socket    unknown", "service   unknown"]
    assert lines[4] == "memory    unknown"
    assert lines[5] == "models    3 models, unknown which of them run"
    assert lines[6] == "queue     unknown"
    shape = status.as_json(overview)
    assert shape["models"] == {"configured": 2, "broken": 1, "running": None}


def test_units_are_read_from_what_systemctl_show_prints() -> None:
    printed = (
        "Id=sparkd.socket\nActiveState=active\nUnitFileState=enabled\n"
        "Listen=127.0.0.1:8009 (Stream)\nListen=[::1]:8009 (Stream)\n\n"
        "MainPID=0\nId=sparkd.service\nActiveState=inactive\nUnitFileState=\n"
    )
    units = systemctl.parse_show(printed)
    assert system_units.of("sparkd.socket", units) == SystemUnit(
        unit="sparkd.socket",
        state="active",
        enabled="enabled",
        listen=("127.0.0.1:8009", "[::1]:8009"),
    )
    assert system_units.of("sparkd.service", units) == SystemUnit(
        unit="sparkd.service", state="inactive", enabled="not installed"
    )
    assert system_units.of("x.service", systemctl.parse_show("")) == SystemUnit(unit="x.service")


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ((), "http://127.0.0.1:8009"),
        (("127.0.0.1:8010",), "http://127.0.0.1:8010"),
        (("0.0.0.0:8009",), "http://127.0.0.1:8009"),
        (("[::]:8009",), "http://127.0.0.1:8009"),
        (("/run/x.sock", "192.168.1.20:80"), "http://192.168.1.20:80"),
    ],
)
def test_programs_of_this_host_are_told_an_address_that_they_can_reach(
    listen: tuple[str, ...], url: str
) -> None:
    assert system_units.url_of(SystemUnit(unit="sparkd.socket", listen=listen)) == url


@pytest.mark.parametrize(
    ("why", "typical_s", "loading", "text"),
    [
        ("fake-a is in use", 95.0, False, "large: fake-a is in use, waiting"),
        ("loading", 95.0, True, "large: typically 1m35s, loading"),
        ("loading", None, True, "large: loading"),
        (None, None, True, "large: loading"),
        (None, None, False, "large: waiting"),
    ],
)
def test_start_says_what_it_waits_for_and_how_long_a_load_takes(
    why: str | None, typical_s: float | None, loading: bool, text: str
) -> None:
    told = why and Progress(
        model_id="large", loading=loading, why=why, elapsed_s=3.0, typical_s=typical_s
    )
    assert start.doing_text("large", told or None, loading=loading) == text


def test_start_tells_whether_it_was_us_who_started_the_model() -> None:
    fresh = Started(instance=READY.instance, fresh=True, took_s=95.4)
    found = Started(instance=READY.instance, fresh=False, took_s=0.2)
    assert start.text("large", fresh) == "large is ready after 1m35s"
    assert start.text("large", found) == "large is ready; it was running already"
    assert start.as_json("large", fresh)["started"] is True


def test_stop_of_a_stopped_model_reads_like_a_success() -> None:
    assert stop.text("large", stopped=True) == "large is stopped"
    assert stop.text("large", stopped=False) == "large was not running"


def test_logs_asks_for_what_the_models_conmon_wrote_in_any_run() -> None:
    words = logs.command(parse(["logs", "org/big-2.5"]), 996)
    assert words[0] == "journalctl"
    end = words.index("+")
    wanted = ["CONTAINER_NAME=sparkd-model-org_2fbig-2.5", "_UID=996", "_COMM=conmon"]
    assert words[end - 3 : end] == wanted
    assert words[-1] == "OBJECT_SYSTEMD_UNIT=user@996.service", "or lines that journald dropped"
    assert {"--output=json", "--all"} <= set(words), "a progress bar is no text to journalctl"
    assert not any(word.startswith("--lines") for word in words)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["-n", "7"], {"--lines=7"}),
        (["-f"], {"--lines=10", "--follow"}),
        (["-f", "-n", "0"], {"--lines=0", "--follow"}),
        (["--json"], {"--output=json"}),
    ],
)
def test_options_of_logs_become_those_of_journalctl(given: list[str], wanted: set[str]) -> None:
    assert wanted <= set(logs.command(parse(["logs", "m", *given]), 996))


@pytest.mark.parametrize(
    ("section", "shape"),
    [
        ("ps", ps.as_json(READY)),
        (
            "start MODEL",
            start.as_json("m", Started(instance=READY.instance, fresh=True, took_s=1.0)),
        ),
        ("stop [--now] MODEL", stop.as_json("m", 1.0, stopped=True)),
        ("check", check.as_json(CONFIG)),
        (
            "status",
            status.as_json(Overview(socket=SOCKET, service=SERVICE, holders=(), config=CONFIG)),
        ),
    ],
)
def test_documentation_lists_every_json_key_and_no_other(
    section: str, shape: dict[str, object]
) -> None:
    text = DOCUMENTATION.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    documented = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert sorted(documented) == sorted(shape)
    json.dumps(shape)
