# SPDX-License-Identifier: Apache-2.0
"""The facts of a host before any judgment, one record per area.

An area that could not be read is None in `Facts`, and `unseen` says why. Within an area None is
what this host does not have or does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, ...]

UNLIMITED = 1 << 62
"""Stands for a limit that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user sparkd, as the files of the system have it."""

    uid: int
    subordinate_uids: int
    subordinate_gids: int
    lingers: bool
    reads_journal: bool
    """Whether it is a member of the journal's group."""
    maps_ids: bool
    """Whether newuidmap and newgidmap are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What the kernel allows."""

    unified_cgroups: bool
    controllers: frozenset[str]
    """That the root of the hierarchy has."""
    user_namespaces: bool
    apparmor_restricts: bool
    """AppArmor keeps programs without a profile from making user namespaces."""
    podman_profile: bool
    """AppArmor has a profile for Podman."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """The service manager of the user sparkd."""

    state: str
    reads_journal: bool | None = None
    """Whether its processes have the journal's group; None when it does not run."""
    controllers: frozenset[str] | None = None
    locked_memory_bytes: int | None = None
    asked_memory_bytes: int | None = None
    """What its unit asks for as the limit of locked memory."""
    login_lost: bool = False
    """Whether the login manager runs, but cannot be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Podman, as it answers the user sparkd."""

    socket_state: str
    error: str = ""
    version: Version = ()
    storage_driver: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CdiSpec:
    """One file that describes devices to Podman."""

    path: str
    directory: str
    readable: bool = True
    broken: str = ""
    """Why it is none, in words."""
    dangling: bool = False
    """Whether it is a link to a file that does not exist."""
    version: str = ""
    devices: tuple[str, ...] = ()
    """As `nvidia.com/gpu=all`."""
    missing: tuple[str, ...] = ()
    """Paths of the host that it names and that are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What Podman and NVIDIA's driver say of GPUs."""

    specs: tuple[CdiSpec, ...] = ()
    wanted: tuple[str, ...] = ()
    """The CDI devices that models ask for."""
    driver: str | None = None
    smi: str | None = None
    """What nvidia-smi said, or why it said nothing; None when it is not installed."""
    smi_works: bool = False
    persistent: bool | None = None
    hooks: tuple[str, ...] = ()
    """Files of NVIDIA's former way into containers, which gets in the way of CDI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The host's memory, and what its largest model needs."""

    total_bytes: int
    available_bytes: int
    free_bytes: int
    swap_bytes: int
    reserve_bytes: int
    largest: tuple[str, int] | None = None
    """The model, of those whose weights are there, that needs most."""
    unified: bool = True
    drops_caches: bool = False
    """Whether the unit that drops the page cache is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One file system that sparkd fills."""

    path: str
    free_bytes: int
    total_bytes: int
    free_files: int
    total_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    now: float
    built_at: float
    """No right clock shows an earlier time."""
    synchronised: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """The socket that clients connect to, and the key that they need."""

    socket_state: str
    enabled: str
    listen: tuple[str, ...]
    key_error: tuple[str, str] | None = None
    """The problem of the key file, and the command that fixes it."""
    holders: tuple[str, ...] = ()
    """The programs outside sparkd that listen where the socket should, as far as they are seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A file or directory that must be there, as it must be."""

    path: str
    mode: int | None
    """None when it is not there."""
    owner: str
    wanted_mode: int
    wanted_owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What should have gone with a model that does not run, by model."""

    containers: tuple[str, ...] = ()
    """Containers that Podman takes for alive and whose scope is gone."""
    scopes: tuple[str, ...] = ()
    """Scopes without a container."""
    directories: tuple[str, ...] = ()
    """Endpoints of models that have neither."""
    failed_units: tuple[str, ...] = ()
    """Models whose scope failed and stays loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What the configuration says, as far as the host must have it."""

    problems: int
    unreadable_weights: tuple[tuple[str, str], ...] = ()
    """Models whose weights are there and may not be read by the user sparkd, and where."""
    misplaced_weights: tuple[tuple[str, str, str], ...] = ()
    """Models whose containers cannot read their weights where they are, the reason, and a cure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    account: Account | None = None
    kernel: Kernel | None = None
    manager: Manager | None = None
    engine: Engine | None = None
    gpu: Gpu | None = None
    memory: Memory | None = None
    disks: tuple[Disk, ...] = ()
    clock: Clock | None = None
    port: Port | None = None
    paths: tuple[Path, ...] = ()
    leftovers: Leftovers | None = None
    catalog: Catalog | None = None
    unseen: tuple[tuple[str, str], ...] = ()
    """What was not looked at, and why."""
