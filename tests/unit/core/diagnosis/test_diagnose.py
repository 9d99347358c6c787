# SPDX-License-Identifier: Apache-2.0
"""Every finding of `sparkctl doctor`, from the facts that make it, and none from a host in order.

Run as a program, this writes the document that lists them.
"""

from __future__ import annotations

import ast
import os
import socket
from dataclasses import replace
from typing import Any

import pytest

from sparkd.adapters import host_facts
from sparkd.adapters.proc import listeners
from sparkd.core.diagnosis.diagnose import diagnose
from sparkd.core.diagnosis.facts import (
    UNLIMITED,
    Account,
    Catalog,
    CdiSpec,
    Clock,
    Disk,
    Engine,
    Facts,
    Gpu,
    Kernel,
    Leftovers,
    Manager,
    Memory,
    Port,
)
from sparkd.core.diagnosis.facts import Path as PathFact
from sparkd.core.diagnosis.findings import Level
from sparkd.core.diagnosis.gpu import accepted_version
from sparkd.core.diagnosis.host import is_outside
from sparkd.sparkctl.commands import doctor
from sparkd.sparkctl.exit_codes import Exit
from tests.unit.project.sources import PATHS, ROOT, calls_of

DIAGNOSIS = ROOT / "sparkd/core/diagnosis"
DOCUMENT = ROOT / "docs/reference/doctor.md"
GIB = 1 << 30
CONTROLLERS = frozenset({"cpu", "cpuset", "io", "memory", "pids"})
SPEC = CdiSpec(
    path="/etc/cdi/nvidia.yaml",
    directory="/etc/cdi",
    version="0.5.0",
    devices=("nvidia.com/gpu=0", "nvidia.com/gpu=all"),
)
LATER = replace(SPEC, path="/var/run/cdi/nvidia.yaml", directory="/var/run/cdi")
HEALTHY = Facts(
    account=Account(
        uid=996,
        subordinate_uids=65536,
        subordinate_gids=65536,
        lingers=True,
        reads_journal=True,
        maps_ids=True,
    ),
    kernel=Kernel(
        unified_cgroups=True,
        controllers=CONTROLLERS,
        user_namespaces=True,
        apparmor_restricts=True,
        podman_profile=True,
    ),
    manager=Manager(
        state="active",
        reads_journal=True,
        controllers=CONTROLLERS,
        locked_memory_bytes=UNLIMITED,
        asked_memory_bytes=UNLIMITED,
    ),
    engine=Engine(socket_state="active", version=(4, 9, 3), storage_driver="overlay"),
    gpu=Gpu(
        specs=(SPEC,),
        wanted=("nvidia.com/gpu=all",),
        driver="580.95.05",
        smi="Enabled",
        smi_works=True,
        persistent=True,
    ),
    memory=Memory(
        total_bytes=120 * GIB,
        available_bytes=110 * GIB,
        free_bytes=100 * GIB,
        swap_bytes=16 * GIB,
        reserve_bytes=4 * GIB,
        largest=("big", 96 * GIB),
    ),
    disks=(
        Disk(
            path="/var/lib/sparkd",
            free_bytes=500 * GIB,
            total_bytes=1000 * GIB,
            free_files=900,
            total_files=1000,
        ),
    ),
    clock=Clock(now=2000.0, built_at=1000.0, synchronised=True),
    port=Port(socket_state="active", enabled="enabled", listen=("127.0.0.1:8009",)),
    paths=(
        PathFact(
            path="/run/sparkd/locks",
            mode=0o700,
            owner="sparkd",
            wanted_mode=0o700,
            wanted_owner="sparkd",
        ),
    ),
    leftovers=Leftovers(),
    catalog=Catalog(problems=0),
)


def changed(area: str, **values: Any) -> Facts:
    part = getattr(HEALTHY, area)
    if isinstance(part, tuple):
        return replace(HEALTHY, **{area: (replace(part[0], **values),)})
    return replace(HEALTHY, **{area: replace(part, **values)})


def specs(*found: CdiSpec) -> Facts:
    return changed("gpu", specs=found)


BROKEN = {
    "no-account": replace(HEALTHY, account=None, manager=None),
    "no-linger": changed("account", lingers=False),
    "few-subordinate-ids": changed("account", subordinate_gids=0),
    "no-newuidmap": changed("account", maps_ids=False),
    "no-journal-group": changed("account", reads_journal=False),
    "manager-down": changed("manager", state="inactive"),
    "manager-without-group": changed("manager", reads_journal=False),
    "login-manager-lost": changed("manager", login_lost=True),
    "memlock-limited": changed("manager", locked_memory_bytes=8 << 20),
    "controllers-not-delegated": changed("manager", controllers=frozenset({"cpu", "pids"})),
    "no-controllers": changed("kernel", controllers=frozenset()),
    "cgroups-v1": changed("kernel", unified_cgroups=False, controllers=frozenset()),
    "no-user-namespaces": changed("kernel", user_namespaces=False),
    "apparmor-userns": changed("kernel", podman_profile=False),
    "podman-socket-down": changed("engine", socket_state="inactive", error="no socket"),
    "podman-down": changed("engine", error="timed out"),
    "podman-old": changed("engine", version=(3, 4, 4)),
    "storage-driver": changed("engine", storage_driver="vfs"),
    "cdi-missing": specs(),
    "cdi-unreadable": specs(SPEC, replace(SPEC, path="/etc/cdi/x.yaml", readable=False)),
    "cdi-broken": specs(SPEC, replace(SPEC, path="/etc/cdi/x.yaml", devices=(), broken="no kind")),
    "cdi-version": specs(replace(SPEC, version="0.7.0")),
    "cdi-stale": specs(replace(SPEC, missing=("/dev/nvidia9",))),
    "cdi-twice": specs(SPEC, replace(SPEC, path="/etc/cdi/x.yaml", devices=SPEC.devices[:1])),
    "cdi-shadowed": specs(SPEC, replace(LATER, devices=SPEC.devices[:1])),
    "no-driver": changed("gpu", driver=None),
    "smi-fails": changed("gpu", smi="Driver/library version mismatch", smi_works=False),
    "no-persistence": changed("gpu", persistent=False),
    "oci-hook": changed("gpu", hooks=("/usr/share/containers/oci/hooks.d/oci-nvidia-hook.json",)),
    "model-too-large": changed("memory", largest=("big", 119 * GIB)),
    "memory-short": changed("memory", available_bytes=50 * GIB),
    "page-cache": changed("memory", free_bytes=50 * GIB),
    "no-swap": changed("memory", swap_bytes=0),
    "disk-full": changed("disks", free_bytes=GIB // 2),
    "disk-low": changed("disks", free_bytes=5 * GIB),
    "inodes-low": changed("disks", free_files=1),
    "clock-wrong": changed("clock", now=10.0),
    "clock-unsynchronised": changed("clock", synchronised=False),
    "socket-down": changed("port", socket_state="failed"),
    "port-taken": changed("port", socket_state="failed", holders=("pid 7 (node)",)),
    "socket-not-enabled": changed("port", enabled="disabled"),
    "no-key": changed("port", key_error=("API key file holds no key", "sudo sparkctl key rotate")),
    "port-open": changed("port", listen=("127.0.0.1:8009", "0.0.0.0:8009")),
    "path-missing": changed("paths", mode=None),
    "path-mode": changed("paths", mode=0o755),
    "leftover": changed("leftovers", directories=("m",)),
    "configuration": changed("catalog", problems=2),
    "weights-unreadable": changed("catalog", unreadable_weights=(("m", "/srv/m"),)),
    "weights-misplaced": changed(
        "catalog",
        misplaced_weights=(
            (
                "m",
                "/srv/m/a.safetensors links to /data/a, which leaves the directory, so the "
                "container cannot follow it",
                "copy the files in place of the links: sudo cp -rL /srv/m /srv/m.copy, and write "
                "weights: {path: /srv/m.copy}",
            ),
        ),
    ),
}
WARNINGS = {
    *("no-journal-group", "manager-without-group", "login-manager-lost"),
    *("memlock-limited",),
    *("controllers-not-delegated", "no-controllers", "storage-driver"),
    *("cdi-unreadable", "cdi-broken", "cdi-shadowed", "no-driver", "no-persistence", "oci-hook"),
    *("memory-short", "page-cache", "no-swap", "disk-low", "clock-unsynchronised"),
    *("socket-not-enabled", "port-open", "leftover"),
}


def codes(facts: Facts) -> list[str]:
    return [finding.code for finding in diagnose(facts)]


def test_a_host_in_order_has_no_findings() -> None:
    assert codes(HEALTHY) == []


@pytest.mark.parametrize("code", BROKEN)
def test_each_broken_thing_is_found_and_nothing_else_is(code: str) -> None:
    (finding,) = diagnose(BROKEN[code])
    assert finding.code == code
    assert (finding.level is Level.WARNING) is (code in WARNINGS)
    assert finding.what
    assert finding.why
    assert finding.fix


def test_every_finding_that_the_code_can_make_is_tested() -> None:
    made = {
        call.args[0].value
        for call in calls_of({"problem", "warning"}, [p for p in PATHS if DIAGNOSIS in p.parents])
        if isinstance(call.args[0], ast.Constant)
    }
    assert made == set(BROKEN)


def table(level: Level) -> str:
    lines = ["| Code | As in | Why it matters | What mends it |", "|---|---|---|---|"]
    for code, facts in BROKEN.items():
        (one,) = diagnose(facts)
        if one.level is level:
            fix = one.fix.replace("|", r"\|")
            lines.append(f"| `{code}` | {one.what} | {one.why} | {fix} |")
    return "\n".join(lines) + "\n"


def documented() -> str:
    """The document with its two tables put in; all before them is written by hand."""
    before, heading, _ = DOCUMENT.read_text().partition("## Problems\n\n")
    return f"{before}{heading}{table(Level.PROBLEM)}\n## Warnings\n\n{table(Level.WARNING)}"


def test_every_finding_is_documented() -> None:
    assert DOCUMENT.read_text() == documented(), (
        "to write it, with the Python of the tests: -m tests.unit.core.diagnosis.test_diagnose"
    )


def test_problems_come_before_warnings() -> None:
    facts = replace(BROKEN["no-swap"], clock=BROKEN["clock-wrong"].clock)
    assert codes(facts) == ["clock-wrong", "no-swap"]


def test_what_was_not_seen_is_not_judged() -> None:
    assert codes(Facts(account=HEALTHY.account)) == []


def test_a_description_that_podman_cannot_use_counts_as_none() -> None:
    assert codes(specs(replace(SPEC, version="0.7.0"))) == ["cdi-version"]
    assert codes(specs(replace(SPEC, readable=False))) == ["cdi-unreadable", "cdi-missing"]


def test_without_models_that_want_a_gpu_nobody_asks_for_one() -> None:
    assert codes(changed("gpu", wanted=(), specs=(), driver=None)) == []


@pytest.mark.parametrize(
    ("podman", "newest"),
    [
        ((4, 3, 1), (0, 5, 0)),
        ((4, 9, 3), (0, 6, 0)),
        ((5, 4, 2), (0, 8, 0)),
        ((5, 7, 0), None),
        ((), None),
    ],
)
def test_of_a_podman_that_nobody_tried_nothing_is_claimed(
    podman: tuple[int, ...], newest: tuple[int, ...] | None
) -> None:
    assert accepted_version(podman) == newest


def test_two_files_in_two_directories_are_no_conflict_but_one_is_not_used() -> None:
    (finding,) = diagnose(specs(SPEC, replace(LATER, devices=("nvidia.com/gpu=all",))))
    assert finding.code == "cdi-shadowed"
    assert finding.fix == "sudo rm /etc/cdi/nvidia.yaml"


def test_a_limit_that_the_unit_asks_for_and_does_not_get_is_told_as_such() -> None:
    (finding,) = diagnose(changed("manager", locked_memory_bytes=8 << 20))
    assert "restart user@996.service" in finding.fix
    (finding,) = diagnose(
        changed("manager", locked_memory_bytes=8 << 20, asked_memory_bytes=8 << 20)
    )
    assert "LimitMEMLOCK=infinity" in finding.fix


def test_a_manager_that_is_down_is_one_finding_and_not_three() -> None:
    facts = changed("manager", state="inactive")
    engine = Engine(socket_state="inactive", error="no such file")
    assert codes(replace(facts, engine=engine)) == ["manager-down"]


@pytest.mark.parametrize(
    ("listen", "outside"),
    [
        ("127.0.0.1:8009", False),
        ("127.8.8.8:80", False),
        ("[::1]:8009", False),
        ("/run/sparkd.sock", False),
        ("0.0.0.0:8009", True),
        ("[::]:8009", True),
        ("192.168.1.20:8009", True),
        ("[fe80::1%eth0]:8009", True),
    ],
)
def test_an_address_is_outside_unless_only_this_host_has_it(listen: str, outside: bool) -> None:
    assert is_outside(listen) is outside


def test_only_problems_are_a_no_unless_warnings_shall_count() -> None:
    found = diagnose(BROKEN["no-swap"])
    assert doctor.exit_of(()) is Exit.OK
    assert doctor.exit_of(found) is Exit.OK
    assert doctor.exit_of(found, strict=True) is Exit.NO
    assert doctor.exit_of(diagnose(BROKEN["disk-full"])) is Exit.NO


def test_doctor_says_what_why_and_how_and_what_it_did_not_see() -> None:
    found = diagnose(BROKEN["no-linger"])
    lines = doctor.text(found, [("Podman", "only root can")]).splitlines()
    assert lines[0] == "problem: the user sparkd does not linger"
    assert lines[1].startswith("  why: without it")
    assert lines[2] == "  fix: sudo loginctl enable-linger sparkd"
    assert lines[-2:] == ["1 problem, 0 warnings", "not looked at: Podman, only root can"]
    assert doctor.text((), ()) == "nothing is wrong"
    assert doctor.as_json((), ()) == {"ok": True, "findings": [], "unseen": []}


if __name__ == "__main__":
    DOCUMENT.write_text(documented())


def test_group_that_a_user_namespace_does_not_map_is_not_judged() -> None:
    whole = "         0          0 4294967295\n"
    private = "         0          0          1\n       996        996          1\n"
    assert host_facts.maps_group(whole, 999)
    assert host_facts.maps_group(private, 996)
    assert not host_facts.maps_group(private, 999)
    assert not host_facts.maps_group("         0     100000      65536\n", 999)


def test_program_that_listens_is_named_with_its_pid() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (holder,) = listeners.at((f"127.0.0.1:{port}", "/run/x.sock"))
        assert holder.startswith(f"pid {os.getpid()} (")
    assert listeners.at((f"127.0.0.1:{port}",)) == ()
