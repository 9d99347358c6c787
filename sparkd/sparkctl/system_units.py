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
    """What systemd says of one of the two system units."""

    unit: str
    state: str = UNKNOWN
    """Its active state; `unknown` where systemd cannot be asked."""
    enabled: str = UNKNOWN
    pid: int | None = None
    listen: tuple[str, ...] = ()


def read() -> tuple[SystemUnit, SystemUnit]:
    """Socket and service, as far as there is a systemd to be asked."""
    units = systemctl.show((SOCKET, SERVICE), _PROPERTIES)
    return of(SOCKET, units), of(SERVICE, units)


def of(unit: str, units: Mapping[str, systemctl.Properties]) -> SystemUnit:
    """One unit of what systemctl said."""
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
    """Where programs of this host reach the gateway: the socket's first TCP address."""
    for address in socket.listen:
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():
            return f"http://{_WILDCARDS.get(host, host)}:{port}"
    return DEFAULT_URL
