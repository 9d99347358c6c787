# SPDX-License-Identifier: Apache-2.0
"""`sparkctl doctor` on a booted host: each thing is broken for real, found, and mended by the very
command that the finding names.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from typing import Any

import pytest

from .hosts import Host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

OF_THIS_HOST = {"no-controllers", "memlock-limited", "no-driver", "no-swap"}
OF_THIS_HOST |= {"clock-unsynchronised", "disk-low", "disk-full", "socket-not-enabled"}
OF_THIS_HOST |= {"inodes-low", "memory-short", "page-cache"}
"""What a host under nspawn without a GPU cannot mend, or that depends on the machine below it."""
STRANGER = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
SPEC = "/etc/cdi/nvidia.yaml"


AS_SPARKD = "runuser -u sparkd -- env XDG_RUNTIME_DIR=/run/user/$(id -u sparkd) "
CODE = "/usr/lib/sparkd/sparkd/adapters/host_facts.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """How something is broken, and how it is put right."""

    code: str
    how: str
    by_fix: bool = True
    """Whether what is said mends it; some of it is for people, or needs what no test host has."""
    undo: str = ""
    """What is still to be done after that."""


ROUNDS = (
    (
        Break(code="no-linger", how="rm /var/lib/systemd/linger/sparkd"),
        Break(
            code="few-subordinate-ids",
            how="cp -p /etc/subgid /root/subgid; sed -i /^sparkd:/d /etc/subgid",
            by_fix=False,
            undo="cp -p /root/subgid /etc/subgid",
        ),
        Break(
            code="no-newuidmap",
            how="mv /usr/bin/newgidmap /usr/bin/newgidmap.away",
            by_fix=False,
            undo="mv /usr/bin/newgidmap.away /usr/bin/newgidmap",
        ),
        Break(code="no-journal-group", how="gpasswd --delete sparkd systemd-journal"),
        Break(code="cdi-twice", how=f"cp {SPEC} /etc/cdi/zz.yaml"),
        Break(
            code="cdi-broken",
            how="echo 'x: [' >/etc/cdi/broken.yaml",
            by_fix=False,
            undo="rm /etc/cdi/broken.yaml",
        ),
        Break(
            code="oci-hook",
            how="mkdir -p /etc/containers/oci/hooks.d; "
            "echo '{}' >/etc/containers/oci/hooks.d/oci-nvidia-hook.json",
        ),
        Break(
            code="port-open",
            how="mkdir -p /etc/systemd/system/sparkd.socket.d; "
            "printf '[Socket]\\nListenStream=0.0.0.0:8011\\n' "
            ">/etc/systemd/system/sparkd.socket.d/test.conf; "
            "systemctl daemon-reload; systemctl restart sparkd.socket",
        ),
        Break(code="path-mode", how="chmod 777 /run/sparkd/models"),
        Break(code="leftover", how="runuser -u sparkd -- mkdir /run/sparkd/models/left-over"),
        Break(
            code="weights-unreadable",
            how="mkdir -m 700 /var/lib/sparkd/models/openai--gpt-oss-20b",
            undo="rmdir /var/lib/sparkd/models/openai--gpt-oss-20b",
        ),
        Break(
            code="clock-wrong",
            how=f"touch -d '2 days' {CODE}",
            by_fix=False,
            undo=f"touch -d '2 days ago' {CODE}",
        ),
    ),
    (
        Break(
            code="cdi-shadowed",
            how=f"mkdir -p /var/run/cdi; cp {SPEC} /var/run/cdi/",
            undo=f"mv /var/run/cdi/nvidia.yaml {SPEC}; rmdir /var/run/cdi",
        ),
        Break(
            code="cdi-version",
            how=f"sed 's/cdiVersion.*/cdiVersion: 1.0.0/' {SPEC} >/etc/cdi/new.yaml",
            by_fix=False,
            undo="rm /etc/cdi/new.yaml",
        ),
        Break(
            code="cdi-stale",
            how=f"sed 's,/dev/null,/dev/nvidia99,; s/name: all/name: 7/' {SPEC} "
            ">/etc/cdi/stale.yaml",
            by_fix=False,
            undo="rm /etc/cdi/stale.yaml",
        ),
        Break(
            code="no-key",
            how="cp -p /etc/sparkd/api-key /root/api-key; : >/etc/sparkd/api-key",
            undo="cp -p /root/api-key /etc/sparkd/api-key",
        ),
        Break(code="path-missing", how="rm -r /run/sparkd/locks"),
        Break(code="socket-down", how="systemctl stop sparkd.socket"),
        Break(
            code="configuration",
            how="echo 'models: {bad id: {}}' >/etc/sparkd/models.d/zz.yaml",
            by_fix=False,
            undo="rm /etc/sparkd/models.d/zz.yaml",
        ),
    ),
    (
        Break(code="cdi-unreadable", how=f"chmod 600 {SPEC}"),
        Break(code="cdi-missing", how="true", by_fix=False),
        Break(
            code="podman-socket-down",
            how=AS_SPARKD + "systemctl --user stop podman.socket podman.service",
            by_fix=False,
            undo=AS_SPARKD + "systemctl --user start podman.socket",
        ),
    ),
)


def doctor(host: Host, *words: str) -> dict[str, dict[str, Any]]:
    """The findings by code, but for those that every such host has."""
    out = host.run("sparkctl", "doctor", "--json", *words, check=False).stdout
    found = {finding["code"]: finding for finding in json.loads(out)["findings"]}
    return {code: finding for code, finding in found.items() if code not in OF_THIS_HOST}


@pytest.mark.parametrize("broken", ROUNDS, ids=("one", "two", "three"))
def test_what_is_broken_is_found_and_mended_by_what_is_said(
    host: Host, broken: tuple[Break, ...]
) -> None:
    assert doctor(host) == {}
    host.sh("; ".join(one.how for one in broken))
    try:
        found = doctor(host)
        assert set(found) == {one.code for one in broken}
        for one in broken:
            if one.by_fix:
                host.sh(in_a_shell_of_root(found[one.code]["fix"]))
        mended = {one.code for one in broken if one.by_fix}
        assert not mended & set(doctor(host))
    finally:
        host.sh("; ".join(one.undo for one in broken if one.undo))
    assert doctor(host) == {}


def in_a_shell_of_root(fix: str) -> str:
    """The command of a fix: without sudo, which a test host lacks, and the words behind it."""
    return fix.partition("; then ")[0].replace("sudo ", "")


def test_root_and_sparkd_see_the_same_and_others_are_told_what_they_do_not(host: Host) -> None:
    as_root = json.loads(host.run("sparkctl", "doctor", "--json").stdout)
    as_sparkd = json.loads(host.run("sparkctl", "doctor", "--json", user="sparkd").stdout)
    assert as_root == as_sparkd
    assert as_root["unseen"] == []
    done = host.run(*STRANGER, "sparkctl", "doctor", check=False)
    assert "not looked at: Podman, only root and the user sparkd can" in done.stdout
    assert "sudo sparkctl doctor" in done.stderr


def test_exit_code_is_one_for_problems_and_with_strict_for_warnings(host: Host) -> None:
    assert host.run("sparkctl", "doctor", check=False).returncode == 0
    assert host.run("sparkctl", "doctor", "--strict", check=False).returncode == 1
    with host.file("/etc/sparkd/models.d/zz.yaml", "models: {bad id: {}}"):
        assert host.run("sparkctl", "doctor", check=False).returncode == 1


def test_a_manager_that_is_down_is_found_and_started_by_what_is_said(host: Host) -> None:
    host.sh("systemctl stop user@$(id -u sparkd).service")
    fix = doctor(host)["manager-down"]["fix"]
    host.run(*shlex.split(in_a_shell_of_root(fix)))
    host.wait_until(lambda: doctor(host) == {}, "Podman answers again")


def as_root(host: Host) -> list[dict[str, Any]]:
    """The findings of root's own diagnosis."""
    found: list[dict[str, Any]] = json.loads(
        host.run("sparkctl", "doctor", "--json", check=False).stdout
    )["findings"]
    return found


def test_gateway_finds_what_root_finds(host: Host) -> None:
    seen = {
        one["code"]
        for one in json.loads(host.run("sparkctl", "doctor", "--json", check=False).stdout)[
            "findings"
        ]
    }
    told = {one["code"] for one in host.request("GET", "/doctor").json()["findings"]}
    # The limits of the manager's processes are read by root and their user only.
    assert told <= seen
    assert seen - told <= {"memlock-limited"}


def test_program_on_the_port_is_named_and_gets_no_key(host: Host) -> None:
    host.run("systemctl", "stop", "sparkd.socket", "sparkd.service")
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 8009)); time.sleep(600)"
    host.run("systemd-run", "--quiet", "--unit=taker", "python3", "-c", listen)
    try:
        host.wait_until(lambda: "8009" in host.sh("ss -ltn"), "the port is taken")
        assert host.run("systemctl", "start", "sparkd.socket", check=False).returncode != 0
        (found,) = [
            one
            for one in json.loads(host.run("sparkctl", "doctor", "--json", check=False).stdout)[
                "findings"
            ]
            if one["code"] in ("port-taken", "socket-down")
        ]
        pid = host.sh("systemctl show -P MainPID taker").strip()
        assert f"pid {pid} (python3)" in found["what"]
        refused = host.run("sparkctl", "run", "fake-b", "hello", check=False)
        assert refused.returncode == 6
        assert "no key is sent" in refused.stderr
        status = host.run("sparkctl", "status", check=False)
        assert status.returncode == 1
        assert "sparkctl doctor" in status.stdout
    finally:
        host.run("systemctl", "stop", "taker")
    host.sh(found["fix"].partition("then: ")[2].replace("sudo ", ""))
    assert host.run("sparkctl", "run", "fake-b", "hello").stdout.strip() == "echo: hello"
