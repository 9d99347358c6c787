# SPDX-License-Identifier: Apache-2.0
"""`sparkctl show`: the arithmetic in words, and a command line without secrets."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from sparkd.adapters.files.records import Loads
from sparkd.core.container.podman_cli import podman_create
from sparkd.core.container.spec import SECCOMP_PROFILE
from sparkd.core.model import ModelSpec, Transport, Weights
from sparkd.core.names import Layout
from sparkd.core.scheduling.memory import HostMemory
from sparkd.sparkctl.commands import show

GIB = 1 << 30
SPARK = HostMemory(total_bytes=120 * GIB, available_bytes=112 * GIB, reserve_bytes=4 * GIB)
SPEC = ModelSpec(
    model_id="m", image="localhost/i:1", args=("--gpu-memory-utilization", "0.80", "--x")
)


def shown(spec: ModelSpec, host: HostMemory = SPARK, loads: Loads | None = None) -> show.Shown:
    return show.derive(spec, Layout(), host, loads or Loads())


@pytest.mark.parametrize(
    ("spec", "host", "verdict"),
    [
        (SPEC, SPARK, "108.0 GiB of it now, so it fits"),
        (SPEC, replace(SPARK, available_bytes=50 * GIB), "so others have to leave first"),
        (replace(SPEC, memory_bytes=119 * GIB), SPARK, "it never fits"),
        (replace(SPEC, args=()), SPARK, "its need is neither configured nor measured"),
    ],
)
def test_memory_is_reckoned_as_a_start_would(
    spec: ModelSpec, host: HostMemory, verdict: str
) -> None:
    assert verdict in show.memory_text(shown(spec, host))


def test_the_sum_has_its_parts() -> None:
    text = show.memory_text(shown(SPEC))
    assert "needs 96.0 GiB (utilization, 0.80 of 120.0 GiB)" in text
    assert "this host can give 116.0 GiB: 120.0 GiB less 4.0 GiB reserve" in text


def test_what_was_measured_counts_more_than_what_is_configured() -> None:
    loads = Loads(durations_s=(90.0,), peaks_bytes=(70 * GIB,))
    one = shown(replace(SPEC, memory_bytes=80 * GIB, auto_utilization=True), loads=loads)
    assert "needs 70.0 GiB (measured)" in show.memory_text(one)
    assert "load 15m (typically 1m30s)" in show.text(one)
    assert one.container.command[-2:] == ("--gpu-memory-utilization", "0.58")


def test_the_command_is_one_that_a_shell_takes() -> None:
    words = podman_create(shown(SPEC).container)
    assert tuple(shlex.split(show.command_text(words).replace("\\\n", ""))) == words
    assert words[:2] == ("podman", "create")
    assert "--cap-drop=ALL" in words
    assert f"--security-opt=seccomp={SECCOMP_PROFILE}" in words
    assert "--network=none" in words


def test_a_tcp_model_is_published_on_this_host_only() -> None:
    words = podman_create(shown(replace(SPEC, transport=Transport.TCP)).container)
    assert "--publish=127.0.0.1:40000:8000" in words
    assert "--network=none" not in words


def test_secrets_of_the_environment_are_not_shown() -> None:
    one = shown(replace(SPEC, env=(("HF_TOKEN", "hf_secret"), ("A", "b"))))
    assert "hf_secret" not in show.text(one)
    assert "hf_secret" not in str(show.as_json(one))
    assert "--env=HF_TOKEN=(9 characters not shown)" in podman_create(one.container)
    assert "--env=A=b" in podman_create(one.container)


def test_weights_that_are_not_there_come_with_how_to_get_them(tmp_path: Path) -> None:
    weights = Weights(path=tmp_path / "w", repo="org/w")
    assert (
        show.text(shown(replace(SPEC, weights=weights))).count("not there: sudo sparkctl pull m")
        == 1
    )
    (tmp_path / "w").mkdir()
    assert "not there" not in show.text(shown(replace(SPEC, weights=weights)))
