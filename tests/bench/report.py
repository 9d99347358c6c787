# SPDX-License-Identifier: Apache-2.0
"""How results are shown: one table of rows, on the terminal and in docs/performance.md.

Needs nothing but a file of results.
"""

from __future__ import annotations

import textwrap
from typing import Any

from . import workload

Json = dict[str, Any]
Row = tuple[str, str, str]

BEGIN = "<!-- figures: written by tests/bench/render.py -->"
END = "<!-- end of figures -->"
HEAD: Row = ("", "direct", "through sparkd")


def rows(results: Json) -> list[Row]:
    """What is measured, its figure on the engine's own socket, its figure through sparkd."""
    single, streams, idle = results["requests"]["1"], results["streams"], results["idle"]
    cold, stop = results["cold_start"], results["idle_stop"]
    found: list[Row] = [
        ("cold start: connect to first byte of /healthz", "", f"{cold['median_ms']:.0f} ms"),
        ("memory, just started", "", f"{cold['rss_mib']:.0f} MiB"),
        ("memory, idle with a model resident", "", f"{idle['rss_mib']:.0f} MiB"),
        (
            f"memory, most during {workload.STREAMS} streams",
            "",
            f"{streams['rss_max_mib']:.0f} MiB",
        ),
        (
            f"CPU in {idle['seconds']:.0f} idle seconds, a model resident",
            "",
            f"{idle['cpu_ms']:.1f} ms, {idle['wakeups']} wake-ups",
        ),
        *(_latency(single, rank) for rank in ("p50", "p99")),
        *(
            (f"added to first byte, {rank}", "", f"{single[f'added_{rank}_ms']:.2f} ms")
            for rank in ("p50", "p99")
        ),
    ]
    share = f"{single['kept_waiting_share']:.0%} of the time"
    found.append(("meanwhile kept from its core by others", "", share))
    for connections in workload.BUSY_CONNECTIONS:
        both = results["requests"][str(connections)]
        name = f"requests a second, {connections} connections"
        found.append((name, f"{both['direct']['per_s']:,.0f}", f"{both['sparkd']['per_s']:,.0f}"))
    busy = results["requests"][str(workload.BUSY_CONNECTIONS[0])]
    name = f"CPU for 1,000 requests, {workload.BUSY_CONNECTIONS[0]} connections"
    found.append((name, "", f"{busy['cpu_s_per_1000']:.3f} s"))
    title = f"{workload.STREAMS} streams"
    for name, field in (
        ("first token p50", "ttft_p50_ms"),
        ("first token p99", "ttft_p99_ms"),
        ("gap between tokens p99", "gap_p99_ms"),
    ):
        figures = [f"{streams[way][field]:.1f} ms" for way in ("direct", "sparkd")]
        found.append((f"{title}: {name}", figures[0], figures[1]))
    found += [
        (f"{title}: CPU for 1,000 chunks", "", f"{streams['cpu_s_per_1000_chunks']:.3f} s"),
        ("end of idle time to end of scope", "", f"{stop['median_s']:.2f} s"),
        *_several(results),
    ]
    return found


def _several(results: Json) -> list[Row]:
    """The rows about several models."""
    swaps, crowded = results["swaps"], results["crowded"]
    seconds = [f"{swaps[way]['median_s']:.2f} s" for way in ("direct", "sparkd")]
    found: list[Row] = [
        ("swap of one model for another, its load of 0.5 s included", seconds[0], seconds[1]),
        ("added to a swap", "", f"{swaps['added_s']:.2f} s"),
    ]
    name = f"{workload.CROWD_CONNECTIONS} connections"
    for way, who in (("alone", "nobody waits"), ("crowded", f"{workload.CROWD:,} wait for others")):
        each = crowded[way]
        found += [
            (f"requests a second, {name}, {who}", "", f"{each['per_s']:,.0f}"),
            (f"first byte p99, {name}, {who}", "", f"{each['p99_ms']:.1f} ms"),
        ]
    return found


def _latency(single: Json, rank: str) -> Row:
    direct, sparkd = (single[way][f"{rank}_ms"] for way in ("direct", "sparkd"))
    return (f"first byte on one connection, {rank}", f"{direct:.2f} ms", f"{sparkd:.2f} ms")


def text_table(results: Json) -> str:
    table = [HEAD, *rows(results)]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in table
    )


def markdown(results: Json) -> str:
    """The part of docs/performance.md between its two marks, the marks included."""
    lines = [f"| {' | '.join(row)} |" for row in (HEAD, ("---", "---:", "---:"), *rows(results))]
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
