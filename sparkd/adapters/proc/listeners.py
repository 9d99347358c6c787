# SPDX-License-Identifier: Apache-2.0
"""Programs that listen on a TCP address of this host, from /proc; decides nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from sparkd.adapters.proc.cgroups import PROC

_TABLES = ("net/tcp", "net/tcp6")
_LISTEN = "0A"
"""The state of a listening socket in these tables (proc_net(5))."""
_ADDRESS, _STATE, _INODE = 1, 3, 9


def at(addresses: Sequence[str]) -> tuple[str, ...]:
    """The programs that listen on the ports of these `HOST:PORT`, with the pid where it shows.

    Another user's program shows its pid to root only.
    """
    ports = {address.rpartition(":")[2] for address in addresses}
    inodes = dict(_listening({int(port) for port in ports if port.isdigit()}))
    owners = dict(_owners(set(inodes))) if inodes else {}
    found = (owners.get(inode, f"a program on port {port}") for inode, port in inodes.items())
    return tuple(dict.fromkeys(sorted(found, key=lambda text: not text.startswith("pid"))))


def _listening(ports: set[int]) -> Iterator[tuple[str, int]]:
    """Each listening socket on one of the ports, by inode."""
    for table in _TABLES:
        try:
            lines = (PROC / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if len(fields) > _INODE and fields[_STATE] == _LISTEN:
                port = int(fields[_ADDRESS].rpartition(":")[2], 16)
                if port in ports:
                    yield fields[_INODE], port


def _owners(inodes: set[str]) -> Iterator[tuple[str, str]]:
    """The processes that hold sockets, by inode."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for process in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text().strip()
            for descriptor in os.scandir(process / "fd"):
                with contextlib.suppress(OSError):
                    inode = wanted.get(os.readlink(descriptor.path))
                    if inode is not None:
                        yield inode, f"pid {process.name} ({name})"
