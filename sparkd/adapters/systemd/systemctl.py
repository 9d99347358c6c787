# SPDX-License-Identifier: Apache-2.0
"""Properties of units as systemctl(1) prints them, for readers that need no bus library.

Code that starts, stops or waits for a unit uses `user_manager`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

TIMEOUT_S = 10.0

Properties = Mapping[str, tuple[str, ...]]
"""What a unit says, by property; one that can be set several times has several values."""


def show(units: Sequence[str], properties: Sequence[str], *scope: str) -> dict[str, Properties]:
    """The units by name; `scope` is `--user` for the manager of the user who asks.

    Empty where there is no systemd, or none that answers.
    """
    wanted = ",".join(["Id", *properties])
    command = ["systemctl", *scope, "show", f"--property={wanted}", "--", *units]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_show(done.stdout)


def parse_show(printed: str) -> dict[str, Properties]:
    """The units in what `systemctl show` printed, by name; empty lines separate them."""
    units: dict[str, Properties] = {}
    for block in printed.split("\n\n"):
        found: dict[str, tuple[str, ...]] = {}
        for line in block.splitlines():
            name, _, value = line.partition("=")
            found[name] = (*found.get(name, ()), value)
        if "Id" in found:
            units[found["Id"][0]] = found
    return units
