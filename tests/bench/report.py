# SPDX-License-Identifier: Apache-2.0
"""How results are shown: one table of rows, on the terminal and in docs/performance.md.

Needs nothing but a file of results.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from . import workload

Json = dict[str, Any]
Row = list[str]
"""What is measured, and its figure by each way."""

BEGIN = "<!-- figures: written by tests/bench/render.py -->"
END = "<!-- end of figures -->"
DIRECT, OURS = "direct", "sparkd"


def rows(results: Json) -> list[Row]:
    """The head of the table, and its rows."""
    table = _Table(list(results["ways"]))
    cold, single = results["cold_start"], results["requests"]["1"]
    table.ours("cold start: connect to first byte of /healthz", f"{cold['median_ms']:.0f} ms")
    table.ours("memory, just started", f"{cold['rss_mib']:.0f} MiB")
    idle = table.of(results["idle"])
    idle("memory, idle with a model resident", "{rss_mib:.0f} MiB", direct=False)
    name = f"CPU in {workload.IDLE_S:.0f} idle seconds, a model resident"
    idle(name, "{cpu_ms:.1f} ms, {wakeups} wake-ups", direct=False)
    one = table.of(single)
    for rank in ("p50", "p99"):
        one(f"first byte on one connection, {rank}", f"{{{rank}_ms:.2f}} ms")
    for rank in ("p50", "p99"):
        one(f"added to first byte, {rank}", f"{{added_{rank}_ms:.2f}} ms", direct=False)
    one(
        "meanwhile kept from its core by others",
        "{kept_waiting_share:.0%} of the time",
        direct=False,
    )
    size_mib = workload.BIG_BODY_BYTES >> 20
    table.of(results["big"])(f"body of {size_mib} MiB: first byte p50", "{p50_ms:.1f} ms")
    for count in workload.BUSY_CONNECTIONS:
        busy, title = table.of(results["requests"][str(count)]), f"{count} connections"
        busy(f"{title}: requests a second", "{per_s:,.0f}")
        busy(f"{title}: CPU for 1,000 requests", "{cpu_s_per_1000:.3f} s", direct=False)
    for count in workload.STREAMS:
        each, title = results["streams"][str(count)], f"{count} streams"
        streams = table.of(each)
        streams(f"{title}: first token p50", "{ttft_p50_ms:.1f} ms")
        streams(f"{title}: first token p99", "{ttft_p99_ms:.1f} ms")
        streams(f"{title}: gap between tokens p99", "{gap_p99_ms:.1f} ms")
        streams(f"{title}: chunks a second of {each['offered_per_s']:,.0f}", "{chunks_per_s:,.0f}")
        streams(f"{title}: CPU for 1,000 chunks", "{cpu_s_per_1000:.3f} s", direct=False)
        streams(f"{title}: most memory", "{rss_max_mib:.0f} MiB", direct=False)
    _add_several(table, results)
    table.ours("end of idle time to end of scope", f"{results['idle_stop']['median_s']:.2f} s")
    return [["", *results["ways"].values()], *table.rows]


def _add_several(table: _Table, results: Json) -> None:
    """The rows about several models."""
    swaps, crowded = results["swaps"], results["crowded"]
    for way, who in ((DIRECT, "by hand"), (OURS, "by sparkd")):
        name = f"swap of one model for another {who}, its load of 0.5 s included"
        table.ours(name, f"{swaps[way]['median_s']:.2f} s")
    table.ours("added to a swap", f"{swaps['added_s']:.2f} s")
    title = f"{workload.CROWD_CONNECTIONS} connections"
    for state, who in (
        ("alone", "nobody waits"),
        ("crowded", f"{workload.CROWD:,} wait for others"),
    ):
        each = crowded[state]
        table.ours(f"{title}, {who}: requests a second", f"{each['per_s']:,.0f}")
        table.ours(f"{title}, {who}: CPU for 1,000", f"{each['cpu_s_per_1000']:.3f} s")


class _Table:
    """Rows with a cell for each way."""

    def __init__(self, ways: list[str]) -> None:
        self._ways = ways
        self.rows: list[Row] = []

    def of(self, figures: Json) -> Callable[..., None]:
        """Adds rows of figures that each way has."""

        def add(name: str, form: str, *, direct: bool = True) -> None:
            shown = [way in figures and (direct or way != DIRECT) for way in self._ways]
            cells = zip(self._ways, shown, strict=True)
            self.rows.append(
                [name, *(form.format_map(figures[w]) if is_ else "" for w, is_ in cells)]
            )

        return add

    def ours(self, name: str, figure: str) -> None:
        """Add a row of what only sparkd does."""
        self.rows.append([name, *(figure if way == OURS else "" for way in self._ways)])


def text_table(results: Json) -> str:
    table = rows(results)
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    )


def markdown(results: Json) -> str:
    """The part of docs/performance.md between its two marks, the marks included."""
    head, *body = rows(results)
    rule = ["---", *("---:" for _ in head[1:])]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *body)]
    about = textwrap.fill(sentence(results["machine"]), 100, break_on_hyphens=False)
    return "\n".join((BEGIN, "", about, "", *lines, "", END))


def sentence(machine: Json) -> str:
    """The description as one paragraph."""
    kind = "virtual machine" if machine["virtual"] else "machine"
    return (
        f"{machine['cores']} cores of a {kind} ({machine['cpu']}, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}); host {machine['host']}, {machine['systemd']}, "
        f"{machine['podman']}, {machine['python']}; sparkd {machine['sparkd']} at "
        f"{machine['commit']}, {machine['taken_at']}. "
        f"Load average {machine['load_before']:.1f} before the run, {machine['load_after']:.1f} "
        "after it."
    )
