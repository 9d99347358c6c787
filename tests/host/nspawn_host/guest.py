# SPDX-License-Identifier: Apache-2.0
"""One host as a set of processes: boot it, find it again, run commands in it, end it.

Owns the host's control group on this machine; every process it signals is either the recorded
systemd-nspawn (checked by start time) or a member of that group. What is inside the root tree is
decided elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO

from . import cache
from .console import HostError, say

_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_BOOT_LIMIT_S = 300.0
# systemd gives a user manager 90 s; a host that is thrown away need not be asked that long.
DOWN_GRACE_S = 5.0
REBOOT_GRACE_S = 100.0
_KILL_LIMIT_S = 60.0
_NSPAWN = Path("/run/systemd/nspawn")
_WHOLE_PROC = "/run/test-host/proc"
_CONTROLLERS = ("cpu", "io", "memory", "pids")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is written down about a host; the processes themselves are looked up each time."""

    suite: str
    packaged: bool
    furnished: bool = False
    have: list[str] = field(default_factory=list)
    binds: list[str] = field(default_factory=list)
    nspawn_pid: int = 0
    nspawn_start_ticks: int = 0


class Guest:
    """A host by name: its directory in the cache, its record, its processes."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise HostError(f"'{name}' is not a host name", "use small letters, digits and '-'")
        self.name = name
        self.dir = cache.cache_dir() / "hosts" / name
        self.root = self.dir / "root"
        self.console_log = self.dir / "console.log"
        # Two cache directories may each have a host of this name; the machine must not mix them.
        self.machine = f"{name}-{cache.key_of(str(self.dir))[:8]}"
        self.group = f"sparkd-host-{self.machine}"

    def read(self) -> Record | None:
        """Return the record, or None when there is no such host or it was left half-made."""
        try:
            written = json.loads((self.dir / "record.json").read_text())
        except FileNotFoundError:
            return None
        # A host may have been booted by an older version, which recorded other things too.
        known = {each.name for each in fields(Record)}
        return Record(**{name: value for name, value in written.items() if name in known})

    def write(self, record: Record) -> None:
        """Replace the record in one step."""
        fresh = self.dir / "record.json.new"
        fresh.write_text(json.dumps(asdict(record), indent=1) + "\n")
        fresh.rename(self.dir / "record.json")

    def record(self) -> Record:
        """Return the record of a host that must exist."""
        record = self.read()
        if record is None:
            raise HostError(f"there is no host '{self.name}'", f"host up --name {self.name}")
        return record

    def update(self, **changes: object) -> Record:
        """Change some fields of the record and return the new one."""
        record = Record(**{**asdict(self.record()), **changes})
        self.write(record)
        return record

    def nspawn_pid(self) -> int | None:
        """Return the pid of the recorded systemd-nspawn if that very process still lives."""
        record = self.read()
        if record is None or not record.nspawn_pid:
            return None
        same = _start_ticks(record.nspawn_pid) == record.nspawn_start_ticks
        return record.nspawn_pid if same else None

    def leader_pid(self) -> int | None:
        """Return the pid, seen from this machine, of the host's own systemd."""
        pid = self.nspawn_pid()
        if pid is None:
            return None
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return None
        return next((int(child) for child in children if _is_systemd(int(child))), None)

    def responds(self) -> bool:
        """Say whether a command can be run inside: a host that is dying has a systemd too."""
        if self.leader_pid() is None:
            return False
        entered = self.enter_argv("root", ["true"])
        return subprocess.run(entered, capture_output=True, check=False).returncode == 0

    def enter_argv(self, user: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs `command` inside as `user`."""
        leader = self.leader_pid()
        if leader is None:
            raise HostError(f"host '{self.name}' does not run", f"host up --name {self.name}")
        # A process outside the host's control group has no path in the host's view of control
        # groups, and logind then refuses to talk to it.
        group = self._unified() / "payload" / "host-run.scope"
        try:
            group.mkdir(exist_ok=True)
        except FileNotFoundError:
            raise HostError(f"host '{self.name}' is going down") from None
        as_user = ["--reuid", user, "--regid", user, "--init-groups"] if user != "root" else []
        return [
            *_start_in(group),
            *("/usr/bin/nsenter", "-t", str(leader), "-a", "--"),
            # The command must not outlive the caller: nsenter's death would leave it behind.
            *("setpriv", "--pdeathsig", "KILL", *as_user, "--", *command),
        ]

    def environment(self, user: str) -> dict[str, str]:
        """Return the clean environment of a command of that user inside the host."""
        uid, home = self._account(user)
        env = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": home, "USER": user, "LOGNAME": user}
        if "TERM" in os.environ:
            env["TERM"] = os.environ["TERM"]
        if user != "root":
            env["XDG_RUNTIME_DIR"] = f"/run/user/{uid}"
            env["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path=/run/user/{uid}/bus"
        return env

    def run(
        self,
        *command: str,
        user: str = "root",
        stdin: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> str:
        """Run a command inside and return its standard output; its errors end this command."""
        done = subprocess.run(
            self.enter_argv(user, command),
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**self.environment(user), **(env or {})},
            check=False,
        )
        if check and done.returncode:
            raise HostError(
                f"'{' '.join(command)}' in host '{self.name}' ended with exit status "
                f"{done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}"
            )
        return done.stdout

    def boot(self) -> None:
        """Start the host and wait until its systemd has started everything."""
        say(f"boot host '{self.name}'")
        self._sweep()
        cgroup = self._unified()
        _hand_down_controllers()
        cgroup.mkdir(exist_ok=True)
        with self.console_log.open("ab") as log:
            process = subprocess.Popen(
                [*_start_in(cgroup), *self._nspawn_argv()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": _PATH, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                start_new_session=True,
            )
        self.update(nspawn_pid=process.pid, nspawn_start_ticks=_start_ticks(process.pid) or 0)
        self._await_started(process)
        # A container may mount a /proc only while a whole one is to be seen, and systemd-nspawn has
        # covered parts of the host's own.
        self.run("sh", "-c", f"mkdir -p {_WHOLE_PROC} && mount -t proc proc {_WHOLE_PROC}")
        for user in sorted((self.root / "var/lib/systemd/linger").glob("*")):
            # logind starts these managers on its own time; a host is up when they are.
            unit = f"user@$(id -u {user.name}).service"
            self.run("sh", "-c", f"! id {user.name} >/dev/null 2>&1 || systemctl start {unit}")
        say(f"host '{self.name}' is up")

    def _await_started(self, process: subprocess.Popen[bytes]) -> None:
        deadline_mono_s = time.monotonic() + _BOOT_LIMIT_S
        state = "not started"
        while state not in {"running", "degraded"}:
            if process.poll() is not None:
                tail = self.console_log.read_text(errors="replace")[-1000:].strip()
                raise HostError(f"systemd-nspawn ended with {process.returncode}: {tail}")
            if time.monotonic() > deadline_mono_s:
                raise HostError(
                    f"host '{self.name}' is '{state}' after {_BOOT_LIMIT_S:.0f} s",
                    f"host log --name {self.name}",
                )
            time.sleep(0.1)
            if self.leader_pid() is not None:
                state = self.run("systemctl", "is-system-running", check=False).strip()
        if state == "degraded":
            failed = self.run("systemctl", "--failed", "--plain", "--no-legend", check=False)
            say(f"some units failed at boot: {' '.join(failed.split())}")

    def stop(self, *, grace_s: float) -> None:
        """End every process of the host: ask, insist, then kill what is left."""
        asks = [(signal.SIGTERM, grace_s), (signal.SIGTERM, 2.0)] if grace_s else []
        for send, limit_s in (*asks, (signal.SIGKILL, 5.0)):
            pid = self.nspawn_pid()
            if pid is None:
                break
            os.kill(pid, send)
            _wait(lambda: self.nspawn_pid() is None, limit_s)
        if not _wait(self._kill_members, _KILL_LIMIT_S):
            raise HostError(f"processes of host '{self.name}' do not end: {list(self.members())}")
        self._sweep()

    def members(self) -> Iterator[int]:
        """Yield the pid of each process in the host's control group."""
        for procs in self._unified().glob("**/cgroup.procs"):
            try:
                yield from (int(pid) for pid in procs.read_text().split() if pid != "0")
            except OSError:
                continue

    def _kill_members(self) -> bool:
        """Kill what is in the control group; say whether it was already empty."""
        empty = True
        for pid in list(self.members()):
            empty = False
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return empty

    def _sweep(self) -> None:
        """Remove what a dead host of this name leaves on the machine outside its directory."""
        if self.nspawn_pid() is not None or next(self.members(), None) is not None:
            raise HostError(f"host '{self.name}' still runs", f"host down --name {self.name}")
        for hierarchy in _cgroup_hierarchies():
            top = hierarchy / self.group
            for group in sorted(top.glob("**/"), key=lambda path: -len(path.parts)):
                group.rmdir()
        exported = _NSPAWN / "unix-export" / self.machine
        if exported.is_mount():
            # systemd-nspawn of systemd 256 and later mounts it, and refuses to find it there.
            subprocess.run(["umount", "--lazy", exported], check=True)
        for stale in (exported, _NSPAWN / "propagate" / self.machine):
            shutil.rmtree(stale, ignore_errors=True)

    def _unified(self) -> Path:
        """Return the host's control group in the unified hierarchy."""
        return _top_of_cgroups() / self.group

    def _nspawn_argv(self) -> list[str]:
        return [
            "systemd-nspawn",
            f"--directory={self.root}",
            f"--machine={self.machine}",
            f"--hostname={self.name}",
            "--boot",
            "--private-network",
            "--capability=all",
            # Rootless Podman needs these inside; nspawn's own filter leaves them out.
            "--system-call-filter=@keyring add_key bpf",
            "--register=no",
            "--keep-unit",
            "--settings=no",
            "--console=pipe",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            *_bind_options(self.record().binds),
        ]

    def _account(self, user: str) -> tuple[int, str]:
        """Return uid and home of a user of the host."""
        if user == "root":
            return 0, "/root"
        for line in (self.root / "etc/passwd").read_text().splitlines():
            account = line.split(":")
            if account[0] == user:
                return int(account[2]), account[5]
        raise HostError(f"host '{self.name}' has no user '{user}'")


def _cgroup_hierarchies(kind: str | None = None) -> Iterator[Path]:
    """Yield this machine's mounted cgroup hierarchies that systemd-nspawn makes groups in."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, super_block = line.partition(" - ")
        fs_type, _, options = super_block.partition(" ")
        used = fs_type == "cgroup2" or (fs_type == "cgroup" and "name=systemd" in options)
        if used and kind in {None, fs_type}:
            yield Path(mount.split()[4])


def controllers() -> set[str]:
    """Return what a host can limit: the controllers that this machine has on cgroup v2."""
    there = (_top_of_cgroups() / "cgroup.controllers").read_text().split()
    return {name for name in there if name in _CONTROLLERS}


def _hand_down_controllers() -> None:
    """Let the control groups of hosts have them."""
    handed_down = _top_of_cgroups() / "cgroup.subtree_control"
    for name in sorted(controllers() - set(handed_down.read_text().split())):
        try:
            handed_down.write_text(f"+{name}")
        except OSError as error:
            say(f"hosts have no {name} controller: {error.strerror}")


def _top_of_cgroups() -> Path:
    for hierarchy in _cgroup_hierarchies("cgroup2"):
        return hierarchy
    raise HostError("this machine has no cgroup v2 mount", "mount -t cgroup2 none DIR")


def _bind_options(binds: Sequence[str]) -> Iterator[str]:
    """Yield nspawn's options for `SOURCE[:TARGET[:ro]]`.

    A mount below a source stays out: it is bound by itself, or not meant to be seen.
    """
    for bind in binds:
        source, target, mode = [*bind.split(":"), "", ""][:3]
        option = "--bind-ro" if mode == "ro" else "--bind"
        yield f"{option}={source}:{target or source}:norbind"


def _start_in(cgroup: Path) -> list[str]:
    """Return what, put before a command line, starts it in that control group."""
    return [
        "/bin/sh",
        "-c",
        'echo $$ >"$0" && unset PWD && exec "$@"',
        str(cgroup / "cgroup.procs"),
    ]


def _is_systemd(pid: int) -> bool:
    """Say whether a child of systemd-nspawn is the host's systemd, set up and alive.

    Before that, it is nspawn's own process, which is still partly in this machine's namespaces.
    """
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False
    return name == "systemd\n" and _start_ticks(pid) is not None


def _start_ticks(pid: int) -> int | None:
    """Return when a living process started, which with its pid identifies it; None if dead."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])


def _wait(condition: Callable[[], bool], limit_s: float) -> bool:
    """Wait until the condition holds; say whether it came to."""
    deadline_mono_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_mono_s:
            return False
        time.sleep(0.05)
    return True
