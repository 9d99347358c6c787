# SPDX-License-Identifier: Apache-2.0
"""What breaks around sparkd, one row a fault: what a client gets while it lasts, and
that when it goes everything serves again by itself, with nothing left over.

`make test` runs the quick ones, `make faults` all. docs/reliability.md has the table in words.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from _pytest.mark import ParameterSet

from .hosts import Host, answer_of
from .remains import wait_for_nothing

IMAGE = "localhost/sparkd-fake-vllm:latest"
KEPT = "localhost/kept:latest"
MODEL = "fake-b"
USER = (
    "cd /; as() { setpriv --reuid=sparkd --regid=sparkd --init-groups env HOME=/var/lib/sparkd "
    "XDG_RUNTIME_DIR=/run/user/$(id -u sparkd) "
    'DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$(id -u sparkd)/bus "$@"; }; '
)
PODMAN = (
    "as curl -s --unix-socket /run/user/$(id -u sparkd)/podman/podman.sock http://d/_ping; "
    "P=$(as systemctl --user show -p MainPID --value podman.service); "
)
BACK = f"as podman tag {KEPT} {IMAGE}; as podman untag {KEPT} {KEPT}"
FRESH = "systemctl stop sparkd.service; as systemctl --user stop podman.service; "
FULL = (
    "mount -t tmpfs -o size=16k,mode=755 none {0}; chown sparkd:sparkd {0}; "
    "dd if=/dev/zero of={0}/.filler bs=4k 2>/dev/null; true"
)


@dataclass(frozen=True)
class Fault:
    """One row. `gets` is what a client may get meanwhile, as `said` says it."""

    name: str
    inflict: str
    gets: set[str]
    mend: str = "true"
    warm: bool = False
    """Whether the model runs before."""
    fields: dict[str, object] | None = None
    """More of the request that meets the fault."""
    quick: bool = False


FAULTS = [
    Fault(
        name="no space for statistics",
        inflict=FRESH + FULL.format("/var/lib/sparkd/stats"),
        gets={"answer"},
        mend="systemctl stop sparkd.service; umount -l /var/lib/sparkd/stats",
        quick=True,
    ),
    Fault(
        name="the gateway's state is read-only",
        inflict=FRESH + "mount --bind /var/lib/sparkd /var/lib/sparkd && "
        "mount -o remount,bind,ro /var/lib/sparkd",
        gets={"answer"},
        mend=FRESH + "umount -l /var/lib/sparkd",
        quick=True,
    ),
    Fault(
        name="Podman's socket is down",
        inflict="as systemctl --user stop podman.socket podman.service",
        gets={"podman_down"},
        mend="as systemctl --user start podman.socket",
        quick=True,
    ),
    Fault(
        name="Podman's socket is down, the model runs",
        inflict="as systemctl --user stop podman.socket podman.service",
        gets={"answer"},
        mend="as systemctl --user start podman.socket",
        warm=True,
    ),
    Fault(
        name="Podman hangs",
        inflict=PODMAN + "kill -STOP $P; echo $P >/run/stopped",
        gets={"nothing"},
        mend="kill -CONT $(cat /run/stopped)",
    ),
    Fault(
        name="Podman hangs, the model runs",
        inflict=PODMAN + "kill -STOP $P; echo $P >/run/stopped",
        gets={"answer"},
        mend="kill -CONT $(cat /run/stopped)",
        warm=True,
    ),
    Fault(
        name="the user's bus is restarted",
        inflict="as systemctl --user restart dbus.service",
        gets={"answer"},
        warm=True,
    ),
    Fault(
        name="the user's bus is restarted, nothing runs",
        inflict="systemctl start sparkd.service; as systemctl --user restart dbus.service",
        gets={"answer"},
    ),
    Fault(
        name="the user's manager is restarted",
        inflict="systemctl restart user@$(id -u sparkd).service",
        gets={"answer"},
        warm=True,
    ),
    Fault(
        name="/run/sparkd is wiped, nothing runs",
        inflict="systemctl start sparkd.service; rm -rf /run/sparkd/*",
        gets={"answer", "host_error"},
        mend="systemd-tmpfiles --create sparkd.conf",
        quick=True,
    ),
    Fault(
        name="the image is missing",
        inflict=f"as podman tag {IMAGE} {KEPT}; as podman untag {IMAGE} {IMAGE}",
        gets={"image_missing"},
        mend=BACK,
        quick=True,
    ),
    Fault(
        name="the image is removed while the model runs",
        inflict=f"as podman tag {IMAGE} {KEPT}; as podman untag {IMAGE} {IMAGE}",
        gets={"answer"},
        mend=BACK,
        warm=True,
    ),
    Fault(
        name="the engine sends a header that is none",
        inflict="true",
        gets={"upstream_lost"},
        warm=True,
        fields={"garbage": "header"},
        quick=True,
    ),
    Fault(
        name="the engine sends what is not HTTP",
        inflict="true",
        gets={"upstream_lost"},
        warm=True,
        fields={"garbage": "status_line"},
    ),
]


def rows() -> Iterator[ParameterSet]:
    for fault in FAULTS:
        marks = () if fault.quick else (pytest.mark.long,)
        yield pytest.param(fault, id=fault.name, marks=marks)


def said(host: Host, fault: Fault, timeout_s: float = 12.0) -> str:
    """What a client gets: `answer`, the code of an error, `broken`, or `nothing` in time."""
    more = {"fake": fault.fields} if fault.fields else {}
    try:
        response = host.chat(MODEL, "one", timeout_s=timeout_s, **more)
    except httpx.TimeoutException:
        return "nothing"
    except httpx.HTTPError:
        return "broken"
    if response.status_code == 200:
        return "answer"
    try:
        return str(response.json()["error"].get("code") or response.status_code)
    except (ValueError, KeyError):
        return str(response.status_code)


@pytest.mark.parametrize("fault", rows())
def test_fault_is_told_and_everything_heals_when_it_goes(host: Host, fault: Fault) -> None:
    if fault.warm:
        answer_of(host.chat(MODEL))
    cursor = host.cursor()
    host.sh(USER + fault.inflict)
    began_s = time.monotonic()
    try:
        got = said(host, fault)
        took_s = time.monotonic() - began_s
    finally:
        host.sh(USER + fault.mend)
    lines = [str(entry.get("MESSAGE")) for entry in host.journal("-u", "sparkd", since=cursor)]
    print(f"\n{fault.name}: {got} after {took_s:.1f} s")
    print("\n".join(f"    {line}" for line in lines[-6:]))
    assert got in fault.gets, lines

    healed_s = host.wait_until(
        lambda: said(host, Fault(name="", inflict="", gets=set()), 60) == "answer",
        "it serves again by itself",
        timeout_s=90,
    )
    print(f"    healed after {healed_s:.1f} s")
    host.run("sparkctl", "stop", MODEL)
    wait_for_nothing(host)
    assert host.system_unit_states()["sparkd.socket"] == "active"
