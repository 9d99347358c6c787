# SPDX-License-Identifier: Apache-2.0
"""Readings of the host for a diagnosis: files of /proc, /sys and /etc, and properties of units.

Everything is read as the user who asks. Nothing is judged here, and nothing fails: what a host does
not have or does not tell is left out.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from sparkd.adapters.systemd import systemctl
from sparkd.core.container.spec import CDI_DIRECTORIES
from sparkd.core.diagnosis import cdi, facts
from sparkd.core.diagnosis.facts import UNLIMITED

"""Where Podman looks, the later one first."""
_CDI_MAX_BYTES = 4 << 20
"""A host of eight GPUs needs a tenth of it."""
_HOOK_DIRECTORIES = (Path("/usr/share/containers/oci/hooks.d"), Path("/etc/containers/oci/hooks.d"))
_DRIVER = Path("/proc/driver/nvidia/version")
_CGROUPS = Path("/sys/fs/cgroup")
_SYSCTL = Path("/proc/sys")
_PROFILES = Path("/etc/apparmor.d")
_JOURNAL_GROUP = "systemd-journal"
_TOOL_TIMEOUT_S = 10.0
"""nvidia-smi takes seconds while the driver loads, and for ever when it hangs."""


def account(name: str) -> facts.Account | None:
    """The user of this name; None when there is none."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return None
    owners = {user.pw_name, str(user.pw_uid)}
    return facts.Account(
        uid=user.pw_uid,
        subordinate_uids=_subordinate(Path("/etc/subuid"), owners),
        subordinate_gids=_subordinate(Path("/etc/subgid"), owners),
        lingers=Path("/var/lib/systemd/linger", name).exists(),
        reads_journal=_journal_gid() in os.getgrouplist(name, user.pw_gid),
        maps_ids=all(shutil.which(tool) for tool in ("newuidmap", "newgidmap")),
    )


def kernel() -> facts.Kernel:
    limits = (_number("user/max_user_namespaces"), _number("kernel/unprivileged_userns_clone"))
    return facts.Kernel(
        unified_cgroups=(_CGROUPS / "cgroup.controllers").exists(),
        controllers=_controllers(_CGROUPS) or frozenset(),
        user_namespaces=0 not in limits,
        apparmor_restricts=_number("kernel/apparmor_restrict_unprivileged_userns") == 1,
        podman_profile=(_PROFILES / "podman").exists(),
    )


def manager(uid: int) -> facts.Manager:
    """The service manager of a user; only root and that user can read its processes' limits."""
    unit = f"user@{uid}.service"
    wanted = ("ActiveState", "MainPID", "LimitMEMLOCK", "ControlGroup")
    said = systemctl.show((unit,), wanted).get(unit, {})
    pid = said.get("MainPID", ("0",))[0]
    group = said.get("ControlGroup", ("",))[0]
    limits = _text(Path("/proc", pid, "limits"))
    locked = re.search(r"^Max locked memory +\S+ +(\S+)", limits, re.MULTILINE)
    asked = said.get("LimitMEMLOCK", ("",))[0]
    return facts.Manager(
        state=said.get("ActiveState", ("unknown",))[0],
        reads_journal=_has_group(pid, _journal_gid()),
        controllers=_controllers(_CGROUPS / group.lstrip("/")) if group else None,
        locked_memory_bytes=_limit(locked[1]) if locked else None,
        asked_memory_bytes=_limit(asked) if asked else None,
        login_lost=_login_lost(),
    )


def sandboxed() -> bool:
    """Whether we run within sparkd.service, which has a /dev and a map of groups of its own."""
    return _text(Path("/proc/self/cgroup")).strip().endswith("/sparkd.service")


def _has_group(pid: str, gid: int | None) -> bool | None:
    """Whether a process has a group; None when that cannot be known from here."""
    groups = re.search(r"^Groups:(.*)$", _text(Path("/proc", pid, "status")), re.MULTILINE)
    if groups is None or gid is None or not maps_group(_text(Path("/proc/self/gid_map")), gid):
        return None
    return str(gid) in groups[1].split()


def maps_group(gid_map: str, gid: int) -> bool:
    """Whether a user namespace shows a group as it is; others all read as 65534 there."""
    ranges = (line.split() for line in gid_map.splitlines())
    return any(
        first == outer and int(first) <= gid < int(first) + int(count)
        for first, outer, count in ranges
    )


def _login_lost() -> bool:
    """Whether logind runs and cannot be asked; one that does not run is started by a question."""
    if unit_state("systemd-logind.service") != "active":
        return False
    command = ["busctl", "--system", "status", "org.freedesktop.login1"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_TOOL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode != 0


def unit_state(unit: str, *scope: str) -> str:
    """The state of a unit; with `--user`, of one of the user who asks."""
    said = systemctl.show((unit,), ("ActiveState",), *scope).get(unit, {})
    return said.get("ActiveState", ("unknown",))[0]


def gpu(wanted: Iterable[str], directories: Sequence[Path] = CDI_DIRECTORIES) -> facts.Gpu:
    """What describes GPUs to Podman, and what the driver says."""
    driver = re.search(r"\d+\.[\d.]+", _text(_DRIVER))
    said, works, persistent = _smi()
    return facts.Gpu(
        specs=cdi_specs(directories),
        wanted=tuple(sorted(wanted)),
        driver=driver[0] if driver else None,
        smi=said,
        smi_works=works,
        persistent=persistent,
        hooks=tuple(
            str(path)
            for directory in _HOOK_DIRECTORIES
            for path in sorted(directory.glob("*nvidia*.json"))
        ),
    )


def cdi_specs(directories: Sequence[Path] = CDI_DIRECTORIES) -> tuple[facts.CdiSpec, ...]:
    """The files that describe devices to Podman."""
    return tuple(_cdi_spec(path) for path in _cdi_files(directories))


def disks(paths: Iterable[Path]) -> tuple[facts.Disk, ...]:
    """The file systems of the paths, each once."""
    found: dict[int, facts.Disk] = {}
    for path in paths:
        try:
            device, status = path.stat().st_dev, os.statvfs(path)
        except OSError:
            continue
        disk = facts.Disk(
            path=str(path),
            free_bytes=status.f_bavail * status.f_frsize,
            total_bytes=status.f_blocks * status.f_frsize,
            free_files=status.f_favail,
            total_files=status.f_files,
        )
        found.setdefault(device, disk)
    return tuple(found.values())


def clock() -> facts.Clock:
    synchronised = None
    try:
        done = subprocess.run(
            ["timedatectl", "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            check=False,
            timeout=systemctl.TIMEOUT_S,
        )
        answer = done.stdout.strip()
        synchronised = answer == "yes" if answer else None
    except (OSError, subprocess.TimeoutExpired):
        pass
    built_at = Path(__file__).stat().st_mtime
    return facts.Clock(now=time.time(), built_at=built_at, synchronised=synchronised)


def path(place: Path, wanted_mode: int, wanted_owner: str) -> facts.Path:
    try:
        status = place.stat()
        mode: int | None = status.st_mode & 0o7777
        owner = _user_name(status.st_uid)
    except OSError:
        mode, owner = None, ""
    return facts.Path(
        path=str(place),
        mode=mode,
        owner=owner,
        wanted_mode=wanted_mode,
        wanted_owner=wanted_owner,
    )


def is_unreadable(directory: Path) -> bool:
    """Whether a directory is there and may not be read; one that is not there is not."""
    try:
        os.listdir(directory)
    except PermissionError:
        return True
    except OSError:
        return False
    return any(not os.access(directory / name, os.R_OK) for name in os.listdir(directory))


def _cdi_files(directories: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except PermissionError:
            # What is in it cannot be seen, and so not by Podman.
            found.append(directory)
            continue
        except OSError:
            continue
        named = (directory / name for name in names if name.endswith((".yaml", ".json")))
        # Podman does not enter directories.
        found += [path for path in named if not path.is_dir()]
    return found


def _regular_content(file: Path) -> bytes | None:
    """The start of a file; None for what is not a regular file, which may never end or begin."""
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", closefd=False) as opened:
            return opened.read(_CDI_MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _cdi_spec(file: Path) -> facts.CdiSpec:
    """What a file describes."""
    path, directory = str(file), str(file.parent)
    try:
        content = _regular_content(file)
    except FileNotFoundError:
        broken = "it is a link to a file that does not exist"
        return facts.CdiSpec(path=path, directory=directory, broken=broken, dangling=True)
    except OSError:
        return facts.CdiSpec(path=path, directory=directory, readable=False)
    if content is None:
        broken = "it is not a regular file"
        return facts.CdiSpec(path=path, directory=directory, broken=broken)
    if len(content) > _CDI_MAX_BYTES:
        broken = f"it has more than {_CDI_MAX_BYTES >> 20} MiB"
        return facts.CdiSpec(path=path, directory=directory, broken=broken)
    return cdi.parse(content.decode(errors="replace"), path, exists=_exists)


def _exists(place: str) -> bool:
    """Whether a path of the host is there. Of its devices a sandbox shows a few only."""
    return os.path.exists(place) or (place.startswith("/dev/") and sandboxed())


def _smi() -> tuple[str | None, bool, bool | None]:
    """What nvidia-smi said, whether it works, and whether the driver stays loaded."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, False, None
    try:
        done = subprocess.run(
            [tool, "--query-gpu=persistence_mode", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TOOL_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error), False, None
    said = (done.stdout or done.stderr).strip().partition("\n")[0]
    if done.returncode != 0:
        return said or f"exit code {done.returncode}", False, None
    return said, True, said == "Enabled" if said in ("Enabled", "Disabled") else None


def _subordinate(file: Path, owners: set[str]) -> int:
    """How many ids a user has in /etc/subuid or /etc/subgid (subuid(5))."""
    lines = (line.split(":") for line in _text(file).splitlines())
    return sum(
        int(fields[2])
        for fields in lines
        if len(fields) == 3 and fields[0] in owners and fields[2].isdigit()
    )


def _journal_gid() -> int | None:
    try:
        return grp.getgrnam(_JOURNAL_GROUP).gr_gid
    except KeyError:
        return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _controllers(group: Path) -> frozenset[str] | None:
    file = group / "cgroup.controllers"
    return frozenset(_text(file).split()) if file.exists() else None


def _number(name: str) -> int | None:
    """A kernel setting; None where the kernel does not have it."""
    text = _text(_SYSCTL / name).strip()
    return int(text) if text.isdigit() else None


def _limit(text: str) -> int:
    return int(text) if text.isdigit() else UNLIMITED


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
