# SPDX-License-Identifier: Apache-2.0
"""Builds the real adapters and what stands on them; the only place that does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sparkd.adapters.files.records import Records
from sparkd.adapters.podman.client import Podman
from sparkd.adapters.podman.service import PodmanService
from sparkd.adapters.proc.memory import MemoryProbe
from sparkd.adapters.systemd.user_manager import UserManager
from sparkd.core.names import Layout
from sparkd.lifecycle.deaths import Deaths
from sparkd.lifecycle.end.evictor import Evictor
from sparkd.lifecycle.end.exit_watch import ExitWatch
from sparkd.lifecycle.end.idle_check import IdleCheck
from sparkd.lifecycle.end.stopper import Stopper
from sparkd.lifecycle.leases import Leases
from sparkd.lifecycle.observer import Observer
from sparkd.lifecycle.sessions import Sessions
from sparkd.lifecycle.sleeper import Sleep
from sparkd.lifecycle.start.launcher import Launcher
from sparkd.lifecycle.start.load_watch import LoadWatch
from sparkd.lifecycle.start.presence import Presence
from sparkd.scheduling.ensure import Ensurer
from sparkd.scheduling.policy_input import PolicyInputs
from sparkd.scheduling.scheduler import Scheduler
from sparkd.scheduling.starter import Starter
from sparkd.scheduling.unattended_loads import UnattendedLoads


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that acts, wired together for one process."""

    layout: Layout
    leases: Leases
    systemd: UserManager
    podman: Podman
    launcher: Launcher
    observer: Observer
    policy_inputs: PolicyInputs
    records: Records
    sessions: Sessions
    loads: LoadWatch
    endings: ExitWatch
    scheduler: Scheduler
    starter: Starter
    evictor: Evictor
    ensurer: Ensurer
    idle_check: IdleCheck
    stopper: Stopper
    presence: Presence

    async def close(self) -> None:
        """End what is under way, or leave it, as `abandoned_loads` has it; what runs goes on."""
        await self.scheduler.close()
        await self.starter.unattended_loads.close()
        self.ensurer.close()


def build() -> Runtime:
    """For the user we run as: his systemd and his Podman."""
    user_dir = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    layout = Layout.of(os.environ)
    leases = Leases(layout)
    systemd = UserManager(user_dir / "bus")
    podman = _podman(user_dir / "podman" / "podman.sock", systemd)
    presence = Presence(layout, podman)
    launcher = Launcher(layout, systemd, podman)
    records = Records(layout)
    observer = Observer(layout, leases, systemd, podman, records)
    probe = MemoryProbe.from_environment()
    policy_inputs = PolicyInputs(layout, probe, records)
    sessions = Sessions(layout)
    sleep = Sleep(records, probe)
    deaths = Deaths(podman, sessions, records)
    evictor = Evictor(leases, launcher, records, sessions, sleep, deaths)
    unattended_loads = UnattendedLoads(leases, launcher, observer, LoadWatch())
    starter = Starter(
        launcher=launcher,
        policy_inputs=policy_inputs,
        sessions=sessions,
        evictor=evictor,
        unattended_loads=unattended_loads,
        presence=presence,
        deaths=deaths,
    )
    scheduler = Scheduler(leases, observer, policy_inputs, starter)
    return Runtime(
        layout=layout,
        leases=leases,
        systemd=systemd,
        podman=podman,
        launcher=launcher,
        observer=observer,
        policy_inputs=policy_inputs,
        records=records,
        sessions=sessions,
        loads=unattended_loads.loads,
        endings=ExitWatch(deaths),
        scheduler=scheduler,
        starter=starter,
        evictor=evictor,
        ensurer=Ensurer(
            layout, leases, scheduler, records=records, presence=presence, systemd=systemd
        ),
        presence=presence,
        idle_check=IdleCheck(leases, systemd, podman, launcher, sessions, records, deaths),
        stopper=Stopper(leases, systemd, podman, launcher, records, sessions, deaths),
    )


def _podman(api_socket: Path, systemd: UserManager) -> Podman:
    return Podman(api_socket, PodmanService(api_socket, systemd).answering)
