# SPDX-License-Identifier: Apache-2.0
"""The soak with everything on: `make long-run`, three quarters of an hour (SPARKD_LONG_S).

Beside clients and kills there is all that a host has that is in use for long: the status page is
open, metrics are scraped, somebody listens to events, edits the catalog and reloads, changes the
package for another version and back, uses sparkctl, gives out keys and takes them away. Models are
stopped for being idle after seconds, and each load has the page cache dropped.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from .activities import CATALOG, Commands, Keys, Listener, Reloads, Scrapes, Upgrades
from .hosts import SETTINGS, Host
from .load_actors import Company
from .page_watcher import Onlooker
from .soak import EXPECTED_ERRORS, Rests, Soak
from .test_soak import endure, leave
from .test_upgrade import packages

DURATION_S = float(os.environ.get("SPARKD_LONG_S", "2700"))
RESTS = Rests(every_s=60, for_s=12)
_OWN = {"systemd", "(sd-pam)", "dbus-daemon", "dbus-broker", "catatonit", "podman", "python3"}
"""What may run as user sparkd when no model does; python3 is the gateway, of which there is one."""
_KEPT = r"""
podman info --format '{{.Host.FreeLocks}}'
find ~/.local/share/containers/storage/overlay -mindepth 1 -maxdepth 1 | wc -l
ls /proc/$(pgrep -u sparkd -o systemd)/fd | wc -l
systemctl --user list-units --state=failed --plain --no-legend | wc -l
"""
"""Podman's free locks, layers, descriptors of the user's manager, units that failed."""
_FILES = "find /run/sparkd /var/lib/sparkd/stats -not -path '/run/sparkd/models/*'"


def kept(host: Host) -> list[int]:
    """What is there of things that a leak would make more or less, run for run."""
    return [int(line) for line in host.sh(_KEPT, user="sparkd").split()]


def files(host: Host) -> set[str]:
    return set(host.sh(_FILES).split())


def report(counts: Counter[str]) -> None:
    """In the words of docs/reliability.md; nothing wrong and no leak, or the test has failed."""

    def of(*beginnings: str) -> int:
        return sum(count for name, count in counts.items() if name.startswith(beginnings))

    explained = of("broken ", *EXPECTED_ERRORS)
    streams = counts["upgrades"] + of("upgrades put off")
    print(
        f"requests: {of('right', 'left', 'refused ') + streams + explained}, "
        f"faults injected: {of('killed ')}, failed by a fault: {explained}, "
        f"refused by design: {of('refused ')}, wrong answers: 0, leaks: 0"
    )


def programs(host: Host) -> list[str]:
    return host.sh("ps -u sparkd -o comm=").split()


@pytest.mark.long
@pytest.mark.timeout(DURATION_S + 900)
def test_nothing_is_wrong_and_nothing_leaks_with_everything_on(host: Host, tmp_path: Path) -> None:
    host.configure(f"{SETTINGS}drop_caches_below: 1TiB\n")
    soak = Soak(host, DURATION_S, RESTS)
    company = Company(
        soak,
        Onlooker(soak, tmp_path),
        Scrapes(soak),
        Listener(soak),
        Reloads(soak),
        Upgrades(soak),
        Commands(soak),
        Keys(soak),
    )
    catalog = host.run("cat", CATALOG).stdout
    with packages(host), host.file(CATALOG, catalog):
        # Each model has its locks from its first start on.
        leave(host)
        before, files_before = kept(host), files(host)
        counts = endure(soak, company)
        after, files_after = kept(host), files(host)
        print(f"locks, layers, descriptors, failed units: {before} before, {after} after")
    assert after[:2] == before[:2]
    assert after[2] <= before[2] + 4
    assert after[3] <= before[3]
    assert files_after <= files_before
    assert set(programs(host)) <= _OWN
    assert programs(host).count("python3") <= 1
    report(counts)
