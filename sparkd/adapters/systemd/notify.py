# SPDX-License-Identifier: Apache-2.0
"""Inherited sockets and readiness of a service (sd_listen_fds(3), sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from sdnotify import SystemdNotifier

from sparkd.core.errors import HostError

_FIRST_FD = 3


def inherited_sockets(environ: Mapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """The sockets passed by systemd, by FileDescriptorName; empty when none were meant for us.

    LISTEN_PID is checked, so that a child of an activated service does not take its sockets.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    try:
        count = int(environ.get("LISTEN_FDS", ""))
    except ValueError:
        raise HostError(f"LISTEN_FDS is {environ.get('LISTEN_FDS')!r}, not a number") from None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    sockets: dict[str, list[socket.socket]] = {}
    for index in range(count):
        fd = _FIRST_FD + index
        os.set_inheritable(fd, False)  # noqa: FBT003 (it has no name for it)
        name = names[index] if index < len(names) and names[index] else "unknown"
        sockets.setdefault(name, []).append(socket.socket(fileno=fd))
    return sockets


class Notifier:
    """Tells the service manager about readiness and health; says nothing where there is none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._notifier = SystemdNotifier()
        self.watchdog_s = _watchdog_s(environ)
        """How often systemd wants to hear from us, or None."""

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def reloading(self, monotonic_us: int) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={status}")

    def _send(self, state: str) -> None:
        self._notifier.notify(state)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    usec = environ.get("WATCHDOG_USEC", "")
    mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(usec) / 1_000_000 if mine and usec.isdigit() else None
