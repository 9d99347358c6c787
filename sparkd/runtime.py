# SPDX-License-Identifier: Apache-2.0
"""Builds the real adapters and what stands on them; the only place that does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sparkd.adapters.memory import MemoryProbe
from sparkd.adapters.podman import Podman
from sparkd.adapters.records import Records
from sparkd.adapters.systemd import UserManager
from sparkd.core.names import Layout
from sparkd.deaths import Deaths
from sparkd.endings import Endings
from sparkd.ensure import Ensurer
from sparkd.eviction import Evictor
from sparkd.launch import Launcher
from sparkd.leases import Leases
from sparkd.loadwatch import LoadWatch
from sparkd.podmanservice import PodmanService
from sparkd.presence import Presence
from sparkd.reap import Reaper
from sparkd.scheduler import Scheduler
from sparkd.sessions import Sessions
from sparkd.sleep import Sleep
from sparkd.starter import Starter
from sparkd.stop import Stopper
from sparkd.tending import Tender
from sparkd.view import ViewMaker
from sparkd.world import WorldReader


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that acts, wired together for one process."""

    layout: Layout
    leases: Leases
    systemd: UserManager
    podman: Podman
    launcher: Launcher
    world: WorldReader
    views: ViewMaker
    records: Records
    sessions: Sessions
    loads: LoadWatch
    endings: Endings
    scheduler: Scheduler
    starter: Starter
    evictor: Evictor
    ensurer: Ensurer
    reaper: Reaper
    stopper: Stopper
    presence: Presence

    async def close(self) -> None:
        """End what is under way, or leave it, as `abandoned_loads` has it; what runs goes on."""
        await self.scheduler.close()
        await self.starter.tender.close()
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
    world = WorldReader(layout, leases, systemd, podman, records)
    probe = MemoryProbe.from_environment()
    views = ViewMaker(layout, probe, records)
    sessions = Sessions(layout)
    sleep = Sleep(records, probe)
    deaths = Deaths(podman, sessions, records)
    evictor = Evictor(leases, launcher, records, sessions, sleep, deaths)
    tender = Tender(leases, launcher, world, LoadWatch())
    starter = Starter(
        launcher=launcher,
        views=views,
        sessions=sessions,
        evictor=evictor,
        tender=tender,
        presence=presence,
        deaths=deaths,
    )
    scheduler = Scheduler(leases, world, views, starter)
    return Runtime(
        layout=layout,
        leases=leases,
        systemd=systemd,
        podman=podman,
        launcher=launcher,
        world=world,
        views=views,
        records=records,
        sessions=sessions,
        loads=tender.loads,
        endings=Endings(deaths),
        scheduler=scheduler,
        starter=starter,
        evictor=evictor,
        ensurer=Ensurer(
            layout, leases, scheduler, records=records, presence=presence, systemd=systemd
        ),
        presence=presence,
        reaper=Reaper(leases, systemd, podman, launcher, sessions, records, deaths),
        stopper=Stopper(leases, systemd, podman, launcher, records, sessions, deaths),
    )


def _podman(api_socket: Path, systemd: UserManager) -> Podman:
    return Podman(api_socket, PodmanService(api_socket, systemd).answering)
