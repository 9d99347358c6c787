# SPDX-License-Identifier: Apache-2.0
"""Memory on a real host: the load guard, computed shares, peaks, a GPU with memory of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .hosts import SETTINGS, Host, Stream, answer_of
from .test_scheduling import resident

MEMINFO = "/run/sparkd/meminfo"
DROP_IN = "/run/systemd/system/sparkd.service.d/meminfo.conf"
CATALOG_FILE = "/etc/sparkd/models.d/memory.yaml"
CATALOG = """\
defaults: {image: "localhost/sparkd-fake-vllm:latest", weights: none, idle_timeout: 10m}
models:
  mem-auto: {memory: 20GiB, auto_utilization: true}
  mem-large: {memory: 22GiB}
  mem-main: {}
  mem-beside: {lifecycle: utility}
"""
SMI = "/usr/local/bin/nvidia-smi"
SMI_ANSWER = "/run/sparkd/gpu-memory"


def meminfo(available_kib: int) -> str:
    return f"MemTotal: 131072000 kB\nMemAvailable: {available_kib} kB\n"


@pytest.fixture
def scripted(host: Host) -> Iterator[Host]:
    """A host whose daemon reads a meminfo of ours, with models of known needs."""
    host.run("tee", MEMINFO, input=meminfo(100_000_000))
    host.sh(f"mkdir -p {DROP_IN.rpartition('/')[0]}; rm -f /var/lib/sparkd/stats/mem-*.json")
    host.run("tee", DROP_IN, input=f"[Service]\nEnvironment=SPARKD_MEMINFO={MEMINFO}\n")
    host.run("systemctl", "daemon-reload")
    host.configure(SETTINGS.replace("memory_floor: 32MiB", "memory_floor: 2GiB"))
    host.run("systemctl", "stop", "sparkd.service")
    try:
        with host.file(CATALOG_FILE, CATALOG):
            yield host
    finally:
        host.run("rm", "-f", DROP_IN, MEMINFO)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "stop", "sparkd.service")
        host.sh("rm -f /var/lib/sparkd/stats/mem-*.json")


@contextmanager
def discrete_gpu(host: Host, answer: str) -> Iterator[None]:
    """A program in nvidia-smi's place that gives this answer."""
    host.run("tee", SMI_ANSWER, input=answer)
    host.run("tee", SMI, input=f"#!/bin/sh\ncat {SMI_ANSWER}\n")
    host.run("chmod", "755", SMI)
    host.run("systemctl", "stop", "sparkd.service")
    try:
        yield
    finally:
        host.run("rm", "-f", SMI, SMI_ANSWER)


def command_line(host: Host, model: str) -> list[str]:
    """With what the engine's process was really started."""
    format_ = "{{.State.Pid}}"
    pid = host.run("podman", "inspect", "-f", format_, f"sparkd-model-{model}", user="sparkd")
    return host.run("cat", f"/proc/{pid.stdout.strip()}/cmdline").stdout.split("\0")


def share_given(host: Host, model: str) -> str:
    words = command_line(host, model)
    return words[words.index("--gpu-memory-utilization") + 1]


def peaks(host: Host, model: str) -> list[int]:
    found: list[int] = json.loads(host.sh(f"cat /var/lib/sparkd/stats/{model}.json"))["peaks_bytes"]
    return found


def loading(host: Host) -> set[str]:
    """The models whose loads the gateway watches."""
    models = host.request("GET", "/status").json()["models"]
    return {model["id"] for model in models if model["phase"] is not None}


def test_collapse_of_memory_kills_the_load_at_the_floor(scripted: Host) -> None:
    with scripted.held_load("fake-b"):
        stream = Stream(scripted, "fake-b", tokens=1, pace_ms=1)
        scripted.wait_until(lambda: scripted.gpu_holders() == ["fake-b"], "it loads")
        scripted.sh(f"printf '{meminfo(1_000_000)}' > {MEMINFO}.new; mv {MEMINFO}.new {MEMINFO}")
        # By itself it would hold it for ever, so that nothing but the guard ends it.
        scripted.wait_until(lambda: scripted.gpu_holders() == [], "the GPU is free", timeout_s=10)
        stream.wait()
    assert '"code": "memory_collapsed"' in stream.text
    assert "976 MiB of memory were available, the floor is 2048 MiB" in stream.text
    scripted.wait_until(lambda: resident(scripted) == set(), "its scope is gone")


def test_computed_share_of_memory_is_on_the_command_line_of_the_engine(scripted: Host) -> None:
    answer_of(scripted.chat("mem-auto"))
    # 20 GiB of 125 GiB are 0.16.
    assert share_given(scripted, "mem-auto") == "0.16"


def test_share_on_a_discrete_gpu_is_one_of_its_own_memory(scripted: Host) -> None:
    with discrete_gpu(scripted, "81920, 70000\n"):
        memory = scripted.request("GET", "/status").json()["memory"]
        assert (memory["unified"], memory["total_bytes"]) == (False, 80 << 30)
        answer_of(scripted.chat("mem-auto"))
        assert share_given(scripted, "mem-auto") == "0.25"


def test_model_larger_than_a_discrete_gpu_is_refused_though_the_host_has_room(
    scripted: Host,
) -> None:
    with discrete_gpu(scripted, "16384, 16000\n"):
        refused = scripted.chat("mem-large").json()["error"]
        assert refused["code"] == "model_too_large"
        assert "this host can give 16.0 GiB" in refused["message"]


def test_peak_of_a_load_on_a_discrete_gpu_is_what_the_gpu_lost(scripted: Host) -> None:
    with discrete_gpu(scripted, "24576, 20000\n"):
        with scripted.held_load("mem-main"):
            stream = Stream(scripted, "mem-main", tokens=1, pace_ms=1)
            scripted.wait_until(lambda: resident(scripted) == {"mem-main"}, "it loads")
            scripted.run("tee", SMI_ANSWER, input="24576, 15000\n")
        stream.wait()
        assert peaks(scripted, "mem-main") == [5000 << 20]


def test_loads_that_overlap_leave_no_measured_peaks(scripted: Host) -> None:
    models = ("mem-main", "mem-beside")
    with scripted.held_load("mem-beside"):
        with scripted.held_load("mem-main"):
            streams = [Stream(scripted, model, tokens=1, pace_ms=1) for model in models]
            scripted.wait_until(lambda: loading(scripted) == set(models), "both are watched")
        streams[0].wait()
    streams[1].wait()
    assert all(stream.whole for stream in streams)
    assert peaks(scripted, "mem-main") == peaks(scripted, "mem-beside") == []
    scripted.run("sparkctl", "stop", "mem-beside")
    answer_of(scripted.chat("mem-beside"))
    assert peaks(scripted, "mem-beside") == [0]
