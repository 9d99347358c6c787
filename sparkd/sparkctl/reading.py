# SPDX-License-Identifier: Apache-2.0
"""One snapshot for the commands that only read, and the error when there is none."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparkd.core.errors import HostError, SparkdError
from sparkd.core.model import Config
from sparkd.core.observed import Snapshot
from sparkd.sparkctl import privileges

if TYPE_CHECKING:
    from sparkd.runtime import Runtime


def read_snapshot(config: Config, words: Sequence[str]) -> Snapshot:
    """The running models, read as the user sparkd. Raises NotPermittedError or HostError."""
    privileges.act_as_sparkd(words)
    # A local import: the bus, Podman and HTTP libraries load slower than the rest of a command.
    import asyncio

    from sparkd import runtime

    parts = runtime.build()
    require_bus(parts)
    return asyncio.run(parts.observer.read_with_health(config))


def try_read_snapshot(
    config: Config, words: Sequence[str]
) -> tuple[Snapshot | None, SparkdError | None]:
    """The snapshot or the error, for commands that are useful without a snapshot."""
    try:
        return read_snapshot(config, words), None
    except SparkdError as error:
        return None, error


def require_bus(parts: Runtime) -> None:
    """Raise HostError at once if the bus is down; a real connection would wait for the manager."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(parts.systemd.bus_socket))
    except OSError as error:
        raise HostError(
            f"the user manager of sparkd does not run: nothing is at {parts.systemd.bus_socket}",
            hint=f"sudo systemctl start user@{os.getuid()}.service",
            code="user_manager_down",
        ) from error
