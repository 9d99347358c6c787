# SPDX-License-Identifier: Apache-2.0
"""Findings about the user sparkd: its service manager, its Podman, and its kernel limits."""

from __future__ import annotations

from sparkd.core.diagnosis.facts import UNLIMITED, Account, Engine, Kernel, Manager
from sparkd.core.diagnosis.findings import Findings, problem, warning

SUBORDINATE_IDS = 65536
"""What images expect to find in a container, and what the package gives."""
_USEFUL_CONTROLLERS = ("memory", "pids")
_MIB = 1 << 20


def account_findings(account: Account | None) -> Findings:
    if account is None:
        yield problem(
            "no-account",
            "there is no user sparkd",
            "the gateway and all models run as this user",
            "sudo systemd-sysusers sparkd.conf && sudo dpkg-reconfigure sparkd",
        )
        return
    if not account.lingers:
        yield problem(
            "no-linger",
            "the user sparkd does not linger",
            "without it his service manager, and every model in it, ends at the next logout or "
            "does not come at boot",
            "sudo loginctl enable-linger sparkd",
        )
    few = min(account.subordinate_uids, account.subordinate_gids)
    if few < SUBORDINATE_IDS:
        yield problem(
            "few-subordinate-ids",
            f"the user sparkd has {few} subordinate ids in /etc/subuid and /etc/subgid",
            "rootless containers need a range of 65536; images that have files of other users "
            "cannot be stored",
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 sparkd, with a "
            "range that no other line has",
        )
    if not account.maps_ids:
        yield problem(
            "no-newuidmap",
            "newuidmap and newgidmap are not installed",
            "without them Podman can give a container one user id only",
            "sudo apt install uidmap",
        )
    if not account.reads_journal:
        yield warning(
            "no-journal-group",
            "the user sparkd is not in the group systemd-journal",
            "the output of models cannot be read: start errors lack its last lines, and "
            "sparkctl logs shows nothing",
            "sudo usermod --append --groups systemd-journal sparkd",
        )


def manager_findings(manager: Manager, account: Account | None, kernel: Kernel | None) -> Findings:
    unit = f"user@{account.uid}.service" if account else "user@.service"
    restart = f"sudo systemctl restart {unit}, which ends all models"
    if manager.state != "active":
        yield problem(
            "manager-down",
            f"{unit} is {manager.state}",
            "the models run in this service manager; without it none can start",
            f"sudo systemctl start {unit}",
        )
        return
    if manager.reads_journal is False and account is not None and account.reads_journal:
        yield warning(
            "manager-without-group",
            f"{unit} runs since before the user sparkd came into the group systemd-journal",
            "its processes cannot read the output of models",
            restart,
        )
    if manager.login_lost:
        yield warning(
            "login-manager-lost",
            "systemd-logind runs, but is not on the system's bus",
            "this follows a restart of that bus; each caller waits for 25 s, and so does every "
            "start of Podman",
            "sudo systemctl restart systemd-logind",
        )
    yield from _memlock_findings(manager, unit, restart)
    lacking = _lacking(manager, kernel)
    if lacking:
        yield warning(
            "controllers-not-delegated",
            f"{unit} does not have the control group controllers {', '.join(lacking)}",
            "limits such as memory_max are accepted and have no effect",
            f"sudo systemctl daemon-reload && {restart}",
        )


def _memlock_findings(manager: Manager, unit: str, restart: str) -> Findings:
    has, asked = manager.locked_memory_bytes, manager.asked_memory_bytes
    if has is None or has >= UNLIMITED:
        return
    if asked is not None and asked <= has:
        fix = f"sudo systemctl daemon-reload && {restart}"
        if asked < UNLIMITED:
            fix = f"sudo systemctl edit {unit}: [Service] LimitMEMLOCK=infinity; then {restart}"
    else:
        fix = f"{restart}; in a container or virtual host, raise the limit of what starts it"
    yield warning(
        "memlock-limited",
        f"processes of {unit} can lock {has // _MIB} MiB of memory",
        "engines lock the buffers through which they feed the GPU; a lower limit than theirs ends "
        "a start or makes transfers slow",
        fix,
    )


def _lacking(manager: Manager, kernel: Kernel | None) -> list[str]:
    """What the manager lacks; what the whole host lacks is the kernel's finding."""
    if manager.controllers is None or (kernel is not None and not kernel.controllers):
        return []
    return [name for name in _USEFUL_CONTROLLERS if name not in manager.controllers]


def engine_findings(engine: Engine, manager: Manager | None) -> Findings:
    if manager is not None and manager.state != "active":
        return
    if engine.socket_state != "active":
        yield problem(
            "podman-socket-down",
            f"podman.socket of the user sparkd is {engine.socket_state}",
            "sparkd makes and removes containers through it",
            "sudo systemd-tmpfiles --create sparkd.conf && "
            "sudo systemctl --user -M sparkd@ restart podman.socket",
        )
    elif engine.error:
        yield problem(
            "podman-down",
            f"Podman does not answer: {engine.error}",
            "sparkd makes and removes containers through it",
            "systemctl --user -M sparkd@ status podman.socket podman.service",
        )
    if engine.storage_driver and engine.storage_driver != "overlay":
        yield warning(
            "storage-driver",
            f"Podman stores images of the user sparkd with {engine.storage_driver}",
            "it copies every layer in full: an image of 20 GB takes several times that, and a "
            "start minutes; the driver is chosen when Podman is first used",
            "cd / && sudo -u sparkd podman system reset, which deletes its images",
        )
    if engine.version and engine.version < (4, 3):
        yield problem(
            "podman-old",
            f"Podman is version {'.'.join(map(str, engine.version))}",
            "sparkd needs 4.3 or newer",
            "sudo apt install podman",
        )


def kernel_findings(kernel: Kernel) -> Findings:
    if not kernel.unified_cgroups:
        yield problem(
            "cgroups-v1",
            "control groups are not those of version 2",
            "scopes around rootless containers need them",
            "boot with systemd.unified_cgroup_hierarchy=1",
        )
    elif not kernel.controllers:
        yield warning(
            "no-controllers",
            "the control groups of this host have no controllers",
            "limits such as memory_max are accepted and have no effect; it is so in containers",
            "boot without cgroup_disable= and systemd.unified_cgroup_hierarchy=0",
        )
    if not kernel.user_namespaces:
        yield problem(
            "no-user-namespaces",
            "the kernel lets no user without privileges make a user namespace",
            "rootless containers cannot run",
            "sudo sysctl -w user.max_user_namespaces=28633 kernel.unprivileged_userns_clone=1",
        )
    if kernel.apparmor_restricts and not kernel.podman_profile:
        yield problem(
            "apparmor-userns",
            "AppArmor restricts user namespaces, and has no profile that lets Podman make them",
            "rootless containers fail with `cannot clone: Operation not permitted`",
            "sudo apt install --reinstall apparmor, or "
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
