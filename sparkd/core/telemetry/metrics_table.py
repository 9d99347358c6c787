# SPDX-License-Identifier: Apache-2.0
"""Every metric that the gateway exports: name, kind, labels and description.

The one list of them: the page is made from it, and docs and dashboard are held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sparkd.core.telemetry.traffic import Histogram


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    name: str
    kind: Kind
    doc: str
    labels: tuple[str, ...] = ()


Value = float | Histogram | tuple[int, float]
"""A number; the buckets of a histogram; count and sum of a summary."""


@dataclass(frozen=True, slots=True)
class Samples:
    """One family with its samples, each the values of the labels and the value."""

    family: Family
    rows: Sequence[tuple[tuple[str, ...], Value]]


def _table(*rows: tuple[str, Kind, tuple[str, ...], str]) -> dict[str, Family]:
    return {
        f"sparkd_{name}": Family(name=f"sparkd_{name}", kind=kind, labels=labels, doc=doc)
        for name, kind, labels, doc in rows
    }


_OF_MODEL = ("model",)

FAMILIES = _table(
    (
        *("requests_total", Kind.COUNTER, ("model", "operation", "status", "reason")),
        "Inference requests that have ended. The reason is an error code, or empty.",
    ),
    (
        *("requests_in_flight", Kind.GAUGE, _OF_MODEL),
        "Requests that wait for the model or are being answered by it.",
    ),
    (
        *("request_duration_seconds", Kind.HISTOGRAM, _OF_MODEL),
        "From the head of a request to the end of its answer.",
    ),
    (
        *("time_to_first_byte_seconds", Kind.HISTOGRAM, _OF_MODEL),
        "From the head of a request to the first byte of the model's answer: TTFT, with its waits.",
    ),
    (
        *("chunk_gap_seconds", Kind.HISTOGRAM, _OF_MODEL),
        "Between two chunks of a streamed answer: inter-token latency, if each is a token.",
    ),
    ("request_bytes_total", Kind.COUNTER, _OF_MODEL, "Bodies of requests that models got."),
    ("response_bytes_total", Kind.COUNTER, _OF_MODEL, "Bodies of the answers of models."),
    (
        *("tokens_total", Kind.COUNTER, ("model", "kind")),
        "Tokens that answers say they took: kind is prompt or completion.",
    ),
    ("key_requests_total", Kind.COUNTER, ("key",), "Requests that the key was let in with."),
    (
        *("key_refused_total", Kind.COUNTER, ("key",)),
        "Requests that were refused because the key had used up its limits.",
    ),
    (
        *("key_tokens_total", Kind.COUNTER, ("key", "kind")),
        "Tokens that answers to the key say they took.",
    ),
    ("queue_requests", Kind.GAUGE, _OF_MODEL, "Requests that wait for the model."),
    (
        *("queue_wait_seconds", Kind.HISTOGRAM, _OF_MODEL),
        "How long requests waited that had to; those that found their model ready are not in it.",
    ),
    ("model_state", Kind.GAUGE, ("model", "state"), "1 for the state that the model is in."),
    (
        *("model_load_seconds", Kind.SUMMARY, _OF_MODEL),
        "From the start of the model's process until it was healthy.",
    ),
    (
        *("model_stops_total", Kind.COUNTER, ("model", "reason")),
        "Ends of the model: idle, evicted, reconfigured, asked, not-woken, or ended unasked.",
    ),
    ("swaps_total", Kind.COUNTER, (), "Models that were stopped to make room for another one."),
    ("model_run_seconds_total", Kind.COUNTER, _OF_MODEL, "How long the model has run."),
    (
        "model_memory_bytes",
        Kind.GAUGE,
        _OF_MODEL,
        "The memory that the running model takes from the host.",
    ),
    ("model_peak_bytes", Kind.GAUGE, _OF_MODEL, "The peak memory of loads of the model."),
    (
        *("model_last_used_timestamp_seconds", Kind.GAUGE, _OF_MODEL),
        "When a use of the model last began or ended.",
    ),
    ("model_failures_in_a_row", Kind.GAUGE, _OF_MODEL, "Starts of the model that failed in a row."),
    ("engine_up", Kind.GAUGE, _OF_MODEL, "Whether the engine's own metrics are in this page."),
    (
        *("engine_series_dropped", Kind.GAUGE, _OF_MODEL),
        "Series of the engine that are left out, because it has too many.",
    ),
    (
        *("host_memory_bytes", Kind.GAUGE, ("kind",)),
        "Memory that models live in: total, available, and reserve, which is never given to them.",
    ),
    (
        *("gpu_lock_holders", Kind.GAUGE, ("holder",)),
        "Processes that hold the GPU lock; the holder is a model, or `foreign`.",
    ),
    ("daemon_starts_total", Kind.COUNTER, (), "Starts of the gateway since the boot."),
    ("build_info", Kind.GAUGE, ("version",), "1."),
)
