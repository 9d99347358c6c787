# SPDX-License-Identifier: Apache-2.0
"""sparkd's two units of the system manager, as every user may see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparkd.adapters.systemd import systemctl

UNKNOWN = "unknown"
SOCKET, SERVICE = "sparkd.socket", "sparkd.service"
DEFAULT_URL = "http://127.0.0.1:8009"
_PROPERTIES = ("ActiveState", "UnitFileState", "MainPID", "Listen")
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "127.0.0.1", "": "127.0.0.1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemUnit:
    """The state that systemd reports for one of the two system units."""

    unit: str
    state: str = UNKNOWN
    """The active state of the unit; `unknown` when systemd cannot be queried."""
    enabled: str = UNKNOWN
    pid: int | None = None
    listen: tuple[str, ...] = ()


def read() -> tuple[SystemUnit, SystemUnit]:
    """The socket and the service; their fields are `unknown` when systemd cannot be queried."""
    units = systemctl.show((SOCKET, SERVICE), _PROPERTIES)
    return of(SOCKET, units), of(SERVICE, units)


def of(unit: str, units: Mapping[str, systemctl.Properties]) -> SystemUnit:
    """One unit from the output of systemctl."""
    said = units.get(unit)
    if said is None:
        return SystemUnit(unit=unit)

    def first(name: str) -> str:
        return said.get(name, ("",))[0]

    return SystemUnit(
        unit=unit,
        state=first("ActiveState") or UNKNOWN,
        enabled=first("UnitFileState") or "not installed",
        pid=int(first("MainPID") or 0) or None,
        listen=tuple(value.removesuffix(" (Stream)") for value in said.get("Listen", ())),
    )


def url_of(socket: SystemUnit) -> str:
    """The URL of the gateway for programs on this host: the socket's first TCP address."""
    for address in socket.listen:
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():
            return f"http://{_WILDCARDS.get(host, host)}:{port}"
    return DEFAULT_URL
