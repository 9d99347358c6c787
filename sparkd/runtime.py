# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds the adapters and every part of a process that acts on models.

`gateway.wiring` adds the parts that only the gateway has. No part builds another one, and none
registers itself with another one.
"""

from __future__ import annotations

import os
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
from sparkd.lifecycle.sleeper import Sleeper
from sparkd.lifecycle.start.launcher import Launcher
from sparkd.lifecycle.start.load_watch import LoadWatch
from sparkd.lifecycle.start.presence import Presence
from sparkd.scheduling.ensure import Ensurer
from sparkd.scheduling.policy_input import PolicyInputs
from sparkd.scheduling.scheduler import Scheduler
from sparkd.scheduling.starter import Starter
from sparkd.scheduling.unattended_loads import UnattendedLoads


class Runtime:
    """The parts that act on models, wired together for one process."""

    def __init__(
        self, layout: Layout, systemd: UserManager, podman: Podman, probe: MemoryProbe
    ) -> None:
        self.layout, self.systemd, self.podman, self.probe = layout, systemd, podman, probe
        self.leases = leases = Leases(layout)
        self.records = records = Records(layout)
        self.sessions = sessions = Sessions(layout)
        self.presence = presence = Presence(layout, podman)
        self.launcher = launcher = Launcher(layout, systemd, podman)
        self.observer = observer = Observer(layout, leases, systemd, podman, records)
        self.loads = loads = LoadWatch()
        self.unattended_loads = UnattendedLoads(leases, launcher, observer, loads)
        deaths, sleeper = Deaths(podman, sessions, records), Sleeper(records, probe)
        self.exit_watch = ExitWatch(deaths)
        self.evictor = Evictor(leases, launcher, records, sessions, sleeper, deaths)
        self.idle_check = IdleCheck(leases, systemd, podman, launcher, sessions, records, deaths)
        self.stopper = Stopper(leases, systemd, podman, launcher, records, sessions, deaths)
        self.policy_inputs = policy_inputs = PolicyInputs(layout, probe, records)
        self.starter = Starter(
            layout=layout,
            leases=leases,
            observer=observer,
            launcher=launcher,
            loads=loads,
            policy_inputs=policy_inputs,
            probe=probe,
            records=records,
            sessions=sessions,
            evictor=self.evictor,
            sleeper=sleeper,
            unattended_loads=self.unattended_loads,
            presence=presence,
            deaths=deaths,
        )
        self.scheduler = Scheduler(
            leases, observer, policy_inputs, self.starter, records=records, loads=loads
        )
        self.ensurer = Ensurer(
            layout, leases, self.scheduler, records=records, presence=presence, systemd=systemd
        )
        self.unattended_loads.on_ready.append(self.scheduler.note_ready)
        self.scheduler.on_started.append(self.ensurer.remember)

    async def close(self) -> None:
        """End what is under way, or leave it, as `abandoned_loads` has it; what runs goes on."""
        await self.scheduler.close()
        await self.unattended_loads.close()
        self.ensurer.close()


def build() -> Runtime:
    """The runtime of the user that this process runs as: its systemd and its Podman."""
    user_dir = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    systemd = UserManager(user_dir / "bus")
    api_socket = user_dir / "podman" / "podman.sock"
    podman = Podman(api_socket, PodmanService(api_socket, systemd).answering)
    return Runtime(Layout.of(os.environ), systemd, podman, MemoryProbe.from_environment())
