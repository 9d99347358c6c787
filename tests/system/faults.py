# SPDX-License-Identifier: Apache-2.0
"""The table of `test_faults`: each fault, its repair, and the permitted symptoms meanwhile.

Each row has two shell scripts that root runs on the host, and their expected results.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGE = "localhost/sparkd-fake-vllm:latest"
KEPT = "localhost/kept:latest"
MODEL = "fake-b"
USER = (
    "cd /; as() { setpriv --reuid=sparkd --regid=sparkd --init-groups env HOME=/var/lib/sparkd "
    "XDG_RUNTIME_DIR=/run/user/$(id -u sparkd) "
    'DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/$(id -u sparkd)/bus "$@"; }; '
    'user() { as systemctl --user "$@"; }; '
    "main_pid() { systemctl show -p MainPID --value $1; }; "
    "gateway() { systemctl start sparkd.service; main_pid sparkd.service; }; "
    # Of Podman's service, which this starts.
    "podman_pid() { as curl -s --unix-socket /run/user/$(id -u sparkd)/podman/podman.sock "
    "http://d/_ping >/dev/null; user show -p MainPID --value podman.service; }; "
    f'of_model() {{ as podman inspect -f "{{{{.State.$1}}}}" sparkd-model-{MODEL}; }}; '
    "stopped() { kill -STOP $1; echo $1 >/run/stopped; }; "
    # The namespaces that Podman keeps open would keep what they saw first.
    "renew_podman() { user stop podman.service; as podman system migrate; }; "
)
"""Begins every script."""
GO_ON = "kill -CONT $(cat /run/stopped)"
BACK = f"as podman tag {KEPT} {IMAGE}; as podman untag {KEPT} {KEPT}"
FRESH = "systemctl stop sparkd.service; user stop podman.service; "
FULL = (
    "mount -t tmpfs -o size=16k,mode=755 none {0}; chown sparkd:sparkd {0}; "
    "dd if=/dev/zero of={0}/.filler bs=4k 2>/dev/null; true"
)
NO_SUBIDS = (
    "for f in subuid subgid; do cp /etc/$f /run/$f.kept; sed -i '/^sparkd:/d' /etc/$f; {0} done; "
    "renew_podman"
)
SUBIDS_BACK = "for f in subuid subgid; do cp /run/$f.kept /etc/$f; done; renew_podman"
UNMOUNT = "umount -l /run/sparkd/models; "
"""That directory is a mount point, which nobody can remove as it is."""
OF_PODMAN = "/etc/systemd/user/podman.service.d"
DROP_IN = (
    f"mkdir -p {OF_PODMAN}; printf '[Service]\n{{0}}\n' >{OF_PODMAN}/test.conf; "
    "user daemon-reload; user stop podman.service"
)
NO_DROP_IN = f"rm -r {OF_PODMAN}; user daemon-reload; user stop podman.service"
ENDS_AT_ONCE = DROP_IN.format(
    "ExecStart=\nExecStart=/usr/bin/podman --root=/proc/none system service"
)
STORAGE = "S=/var/lib/sparkd/.local/share/containers/storage; "
SMALL_STORAGE = (
    STORAGE + "mkdir -p /run/small; mount -t tmpfs -o size=600m none /run/small; "
    "cp -a $S/. /run/small/; chown --reference=$S /run/small; mount --bind /run/small $S; "
    "renew_podman; "
)
"""Podman's storage as it is, in a file system of its own."""
FLOOD = (
    "P=$(gateway); prlimit --nofile=64: --pid $P; "
    "systemd-run --quiet --unit=flood python3 -c '"
    "import socket, time; "
    's = [socket.create_connection(("127.0.0.1", 8009)) for _ in range(200)]; time.sleep(120)'
    "'; sleep 2"
)

FULL_JOURNAL = (
    "python3 -c 'import socket\n"
    "for number in range(9):\n"
    " line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    ' line.connect("/run/systemd/journal/socket")\n'
    " try:\n"
    '  while True: line.send(b"MESSAGE=filler", socket.MSG_DONTWAIT)\n'
    " except BlockingIOError: pass'; "
)
"""As many entries as a journald that does not read has room for."""


@dataclass(frozen=True)
class Fault:
    """One row. `gets` is what a client may get meanwhile, as `said` says it."""

    name: str
    inflict: str
    gets: set[str]
    mend: str = "true"
    afterwards: str = "true"
    """What brings the host back to what it was, once everything has healed."""
    tells: str = ""
    """What is to be found in the journal; where a client gets an error, its code is anyway."""
    says: str = ""
    """What the error of a client says."""
    warm: bool = False
    """Whether the model runs before."""
    same: bool = False
    """Whether the process that ran before is to be the one that answers afterwards."""
    fields: dict[str, object] | None = None
    """More of the request that meets the fault."""
    quick: bool = False


DISK = [
    Fault(
        name="no space for statistics",
        inflict=FRESH + FULL.format("/var/lib/sparkd/stats"),
        gets={"answer"},
        tells="cannot remember /var/lib/sparkd/stats.*: No space left",
        mend="systemctl stop sparkd.service; umount -l /var/lib/sparkd/stats",
        quick=True,
    ),
    Fault(
        name="no room for the model's cache",
        inflict=FRESH + "mount -t tmpfs -o nr_inodes=1 none /var/lib/sparkd/cache; "
        "chown sparkd:sparkd /var/lib/sparkd/cache",
        gets={"host_error"},
        mend=FRESH + "umount -l /var/lib/sparkd/cache",
    ),
    Fault(
        name="/run is full",
        inflict="mount -o remount,size=$(df --output=used /run | tail -n1)k /run; "
        "dd if=/dev/zero of=/run/.filler bs=4k 2>/dev/null; true",
        gets={"answer"},
        mend="rm /run/.filler; mount -o remount,size=20% /run",
    ),
    Fault(
        name="/run/user/UID is full",
        inflict="D=/run/user/$(id -u sparkd); "
        "mount -o remount,size=$(df --output=used $D | tail -n1)k $D; "
        "dd if=/dev/zero of=$D/.filler bs=4k 2>/dev/null; true",
        gets={"systemd_error", "podman_error"},
        mend="D=/run/user/$(id -u sparkd); rm $D/.filler; mount -o remount,size=10% $D",
    ),
    Fault(
        name="the gateway's state is read-only",
        inflict=FRESH + "mount --bind /var/lib/sparkd /var/lib/sparkd && "
        "mount -o remount,bind,ro /var/lib/sparkd",
        gets={"answer"},
        tells="cannot remember /var/lib/sparkd/stats.*: Read-only",
        mend=FRESH + "umount -l /var/lib/sparkd",
        quick=True,
    ),
    Fault(
        name="the gateway's state is read-only, and a session was left open",
        inflict="systemctl stop sparkd.service; "
        f"user kill -s KILL sparkd-model-{MODEL}.scope; "
        "D=/var/lib/sparkd/stats; mount --bind $D $D && mount -o remount,bind,ro $D",
        gets={"answer"},
        tells="cannot end the session",
        mend=FRESH + "umount -l /var/lib/sparkd/stats",
        warm=True,
    ),
    Fault(
        name="/var is read-only",
        inflict=FRESH + "mount --bind /var /var && mount -o remount,bind,ro /var; renew_podman",
        gets={"podman_down"},
        says="ends whenever it is started: Error: .*read-only file system",
        mend=FRESH + "umount -l /var; renew_podman",
    ),
]
PODMAN = [
    Fault(
        name="no space in Podman's storage",
        inflict=FRESH + SMALL_STORAGE + "dd if=/dev/zero of=$S/.filler bs=4k 2>/dev/null; true",
        gets={"podman_error"},
        says="no space left on device.*df -h /var/lib/sparkd",
        mend="rm /run/small/.filler",
        afterwards=FRESH + STORAGE + "umount -l $S; umount -l /run/small; renew_podman",
    ),
    Fault(
        name="Podman's socket is down",
        inflict="user stop podman.socket podman.service",
        gets={"podman_down"},
        mend="user start podman.socket",
        quick=True,
    ),
    Fault(
        name="Podman's socket is down, the model runs",
        inflict="user stop podman.socket podman.service",
        gets={"answer"},
        mend="user start podman.socket",
        warm=True,
        same=True,
    ),
    Fault(
        name="Podman hangs",
        inflict="stopped $(podman_pid)",
        gets={"nothing"},
        mend=GO_ON,
    ),
    Fault(
        name="Podman hangs, the model runs",
        inflict="stopped $(podman_pid)",
        gets={"answer"},
        mend=GO_ON,
        warm=True,
        same=True,
    ),
    Fault(
        name="Podman is slow",
        inflict="P=$(podman_pid); echo $P >/run/stopped; "
        "systemd-run --quiet --collect --unit=slow sh -c "
        '"while kill -STOP $P; do sleep 0.9; kill -CONT $P; sleep 0.1; done"; sleep 1',
        gets={"answer"},
        mend="systemctl stop slow.service; " + GO_ON,
    ),
    Fault(
        name="Podman may make no process",
        inflict=DROP_IN.format("LimitNPROC=1"),
        gets={"podman_down"},
        says="ends whenever it is started: runtime/cgo: pthread_create failed",
        mend=NO_DROP_IN,
    ),
    Fault(
        name="Podman's service ends as soon as it is started",
        inflict=ENDS_AT_ONCE,
        gets={"podman_down"},
        says="ends whenever it is started: Error: .*/proc/none.*status podman.service",
        mend=NO_DROP_IN,
        quick=True,
    ),
    Fault(
        name="Podman's service ends as soon as it is started, the model runs",
        inflict=ENDS_AT_ONCE,
        gets={"answer"},
        mend=NO_DROP_IN,
        warm=True,
        same=True,
    ),
    Fault(
        name="the user has no subordinate ids",
        inflict=NO_SUBIDS.format(""),
        gets={"answer"},
        mend=SUBIDS_BACK,
    ),
    Fault(
        name="the user has too few subordinate ids",
        inflict=NO_SUBIDS.format("echo sparkd:100000:10 >>/etc/$f;"),
        gets={"answer"},
        mend=SUBIDS_BACK,
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
        same=True,
    ),
]
SYSTEMD = [
    Fault(
        name="the user's bus is restarted",
        inflict="user restart dbus.service",
        gets={"answer"},
        warm=True,
        same=True,
    ),
    Fault(
        name="the user's bus is restarted, nothing runs",
        inflict="gateway; user restart dbus.service",
        gets={"answer"},
    ),
    Fault(
        name="the user's bus hangs",
        inflict="gateway; stopped $(user show -p MainPID --value dbus.service)",
        gets={"user_manager_down"},
        mend=GO_ON,
    ),
    Fault(
        name="the user's bus hangs, the model runs",
        inflict="stopped $(user show -p MainPID --value dbus.service)",
        gets={"answer"},
        mend=GO_ON,
        warm=True,
        same=True,
    ),
    Fault(
        name="the user's manager is restarted",
        inflict="systemctl restart user@$(id -u sparkd).service",
        gets={"answer"},
        warm=True,
    ),
    Fault(
        name="the user's manager hangs",
        inflict="gateway; stopped $(main_pid user@$(id -u sparkd))",
        gets={"user_manager_down"},
        mend=GO_ON,
    ),
    Fault(
        name="the user's manager hangs, the model runs",
        inflict="stopped $(main_pid user@$(id -u sparkd))",
        gets={"answer"},
        mend=GO_ON,
        warm=True,
        same=True,
    ),
]
RUNTIME_DIRECTORY = [
    Fault(
        name="/run/sparkd is emptied, nothing runs",
        inflict=f"gateway; {UNMOUNT}rm -rf /run/sparkd/*",
        gets={"answer"},
        quick=True,
    ),
    Fault(
        name="/run/sparkd is emptied, the model runs",
        inflict=f"{UNMOUNT}rm -rf /run/sparkd/*; systemctl restart sparkd.service",
        gets={"answer"},
        warm=True,
    ),
    Fault(
        name="/run/sparkd is removed, nothing runs",
        inflict=f"gateway; {UNMOUNT}rm -rf /run/sparkd",
        gets={"host_error"},
        tells="/run/sparkd was removed",
    ),
    Fault(
        name="/run/sparkd is removed, the model runs",
        inflict=f"{UNMOUNT}rm -rf /run/sparkd",
        gets={"host_error"},
        tells="/run/sparkd was removed",
        warm=True,
    ),
    Fault(
        name="the locks are removed, the model runs",
        inflict="rm -rf /run/sparkd/locks; systemctl restart sparkd.service",
        gets={"answer"},
        warm=True,
        same=True,
    ),
]
GATEWAY = [
    Fault(
        name="the journal hangs, the model runs",
        inflict="stopped $(main_pid systemd-journald.service); "
        + FULL_JOURNAL
        +
        # What is to be noted of this is what would be waited for.
        "curl -s -m 20 -o /dev/null -d {} http://127.0.0.1:8009/v1/chat/completions",
        gets={"answer"},
        tells="entries were lost: journald did not read",
        mend=GO_ON,
        warm=True,
        same=True,
    ),
    Fault(
        name="the gateway has no descriptors left",
        inflict=FLOOD,
        gets={"nothing"},
        tells="connections wait, as no descriptors are left",
        mend="systemctl stop flood.service",
    ),
    Fault(
        name="the gateway may make no thread",
        inflict="prlimit --nproc=1:1000 --pid $(gateway)",
        gets={"host_error"},
        mend="prlimit --nproc=1000:1000 --pid $(gateway)",
    ),
    Fault(
        name="the gateway hangs",
        inflict="stopped $(gateway)",
        gets={"nothing"},
        tells="Watchdog timeout",
    ),
]
ENGINE = [
    Fault(
        name="the engine sends a header that is none",
        inflict="true",
        gets={"upstream_lost"},
        warm=True,
        same=True,
        fields={"garbage": "header"},
        quick=True,
    ),
    *(
        Fault(name=name, inflict="true", gets=gets, warm=True, same=True, fields=fields)
        for name, gets, fields in (
            ("the engine sends what is not HTTP", {"upstream_lost"}, {"garbage": "status_line"}),
            ("the engine sends a length that is none", {"upstream_lost"}, {"garbage": "length"}),
            ("the engine sends a chunk that is none", {"broken"}, {"garbage": "chunk"}),
            ("the engine sends half an answer", {"broken"}, {"break_after_tokens": 1}),
            ("the engine answers 500", {"500"}, {"status": 500}),
            ("the engine thinks for long", {"answer"}, {"first_token_ms": 6000}),
            ("the engine stops in the middle", {"nothing"}, {"stall_after_tokens": 1}),
        )
    ),
    Fault(
        name="the engine hangs",
        inflict="stopped $(of_model Pid)",
        gets={"nothing"},
        mend=GO_ON,
        warm=True,
        same=True,
    ),
    Fault(
        name="conmon hangs",
        inflict="stopped $(of_model ConmonPid)",
        gets={"answer"},
        mend=GO_ON,
        warm=True,
        same=True,
    ),
]
SYSTEM_BUS = [
    Fault(
        name="the system's bus is restarted, the model runs",
        inflict="systemctl restart dbus.service; "
        "sparkctl doctor | grep -q 'systemd-logind runs, but is not on'",
        gets={"answer"},
        mend="systemctl restart systemd-logind.service",
        warm=True,
        same=True,
    ),
    Fault(
        name="the system's bus is restarted, nothing runs",
        inflict=FRESH + "systemctl restart dbus.service",
        # Podman asks the login manager, which does not come back to a new bus, for 25 s.
        gets={"answer", "nothing"},
        mend="systemctl restart systemd-logind.service",
    ),
]
FAULTS = [*DISK, *PODMAN, *SYSTEMD, *RUNTIME_DIRECTORY, *GATEWAY, *ENGINE, *SYSTEM_BUS]
