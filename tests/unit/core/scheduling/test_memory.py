# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of memory: what a model needs, whether it fits, and what the guard says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.model import ModelSpec
from sparkd.core.scheduling import memory
from sparkd.core.scheduling.memory import Basis, HostMemory, Need, Verdict

GIB = 1 << 30
HOST = HostMemory(total_bytes=128 * GIB, available_bytes=100 * GIB, reserve_bytes=8 * GIB)
SPEC = ModelSpec(model_id="m", image="i")


def need(peak_gib: float) -> Need:
    return Need(peak_bytes=int(peak_gib * GIB), basis=Basis.MEASURED)


def test_best_that_is_known_of_a_model_is_what_it_needs() -> None:
    args = ("--gpu-memory-utilization", "0.5")
    configured = replace(SPEC, memory_bytes=7 * GIB, args=args)
    assert memory.need_of(configured, 3 * GIB, HOST) == need(3)
    assert memory.need_of(configured, None, HOST) == Need(
        peak_bytes=7 * GIB, basis=Basis.CONFIGURED
    )
    by_share = memory.need_of(replace(SPEC, args=args), None, HOST)
    assert by_share == Need(peak_bytes=64 * GIB, basis=Basis.UTILIZATION)
    assert memory.need_of(SPEC, None, HOST) is None


@pytest.mark.parametrize(
    ("args", "share"),
    [
        (("--gpu-memory-utilization=0.25",), 0.25),
        (("--gpu-memory-utilization", ".25"), 0.25),
        (("--max-model-len", "8", "--gpu-memory-utilization", "1"), 1),
        (("--gpu-memory-utilization",), None),
        (("--gpu-memory-utilization", "much"), None),
        (("--gpu-memory-utilization-x", "0.5"), None),
        (("0.5",), None),
    ],
)
def test_share_is_read_from_the_arguments_as_the_engine_reads_it(
    args: tuple[str, ...], share: float | None
) -> None:
    found = memory.need_of(replace(SPEC, args=args), None, HOST)
    assert (found.peak_bytes / HOST.total_bytes if found else None) == share


def test_model_fits_into_what_is_available_beyond_the_reserve() -> None:
    assert memory.fits(need(92), HOST, [])
    assert not memory.fits(need(93), HOST, [])


def test_what_residents_give_back_counts_and_what_others_will_take_does_not() -> None:
    assert memory.fits(need(112), HOST, [10 * GIB, 10 * GIB])
    assert not memory.fits(need(113), HOST, [10 * GIB, 10 * GIB])
    assert memory.fits(need(102), HOST, [20 * GIB], 10 * GIB)
    assert not memory.fits(need(103), HOST, [20 * GIB], 10 * GIB)


def test_nothing_makes_the_host_larger_than_it_is() -> None:
    assert memory.fits(need(120), HOST, [500 * GIB])
    assert not memory.fits(need(121), HOST, [500 * GIB])


def test_refusals_show_the_arithmetic() -> None:
    assert memory.never_fits("m", need(120), HOST) is None
    never = memory.never_fits("m", need(121), HOST)
    assert never
    assert never.message == (
        "model 'm' needs 121.0 GiB (measured), this host can give 120.0 GiB: "
        "128.0 GiB less 8.0 GiB reserve"
    )
    assert (never.code, never.retry_after_s) == ("model_too_large", None)
    now = memory.does_not_fit("m", need(93.5), HOST)
    assert now.message == (
        "model 'm' needs 93.5 GiB (measured), 100.0 GiB are available less 8.0 GiB reserve"
    )
    assert now.retry_after_s


@pytest.mark.parametrize(
    ("available", "verdict"),
    [
        (20, Verdict.FINE),
        (10, Verdict.FINE),
        (9, Verdict.DROP_CACHES),
        (5, Verdict.DROP_CACHES),
        (4, Verdict.KILL),
        (0, Verdict.KILL),
    ],
)
def test_guard_drops_caches_before_it_kills(available: int, verdict: Verdict) -> None:
    assert memory.verdict(available, drop_caches_below=10, floor=5) is verdict


@given(st.integers(0, 200 * GIB), st.integers(0, 128 * GIB))
def test_share_for_the_engine_never_exceeds_need_or_what_is_there(want: int, there: int) -> None:
    host = replace(HOST, available_bytes=there)
    share = memory.utilization(want, host)
    assert 0 <= share <= 1
    # A float may be off by less than a byte a GiB.
    assert share * host.total_bytes <= min(want, max(0, there - host.reserve_bytes)) + 128
    assert round(share, 2) == share


def test_meminfo_is_read_in_bytes() -> None:
    text = "MemTotal:       131072 kB\nMemFree:  5 kB\nMemAvailable:   65536 kB\nHugePages:  0\n"
    assert memory.parse_meminfo(text) == (131072 * 1024, 65536 * 1024)


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "MemAvailable: 5 kB\n", "MemTotal 5 kB"])
def test_what_is_no_meminfo_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="MemTotal"):
        memory.parse_meminfo(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("143771, 143158\n", (143771 << 20, 143158 << 20)),
        ("100, 50\n200, 150\n", (100 << 20, 50 << 20)),
        ("[N/A], [N/A]\n", None),
        ("", None),
        ("100\n", None),
        ("100, 50, 50\n", None),
        ("\u00b2, \u00b2\n", None),
        ("9" * 5000 + ", 1\n", None),
    ],
)
def test_discrete_gpu_is_read_and_unified_memory_is_not(
    text: str, read: tuple[int, int] | None
) -> None:
    assert memory.parse_smi(text) == read
