# SPDX-License-Identifier: Apache-2.0
"""The traffic of the gateway as plain numbers: counts, sums, and arrays of buckets.

On the way of a request nothing but integers are added up; names, text and libraries come when
a client requests /metrics. Labels are bounded: models are those of the catalog, and past a limit
of label sets everything new is counted as `other`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

from sparkd.core.numbers import bounded_int, plain_float, plain_int

LABEL_SETS_MAX = 4000
"""Of one family: 60 models, a dozen operations and what usually becomes of requests fit well."""
OTHER = "other"

WAIT_S = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
FIRST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS = {
    "sparkd_request_duration_seconds": FIRST_S,
    "sparkd_time_to_first_byte_seconds": FIRST_S,
    "sparkd_chunk_gap_seconds": GAP_S,
    "sparkd_queue_wait_seconds": WAIT_S,
}
_TAIL_BYTES = 4096
"""`usage` stands near the end of an answer."""
_CRUMB_BYTES = 64
"""A piece below this size joins the one before, so that the last two hold the end of an event."""
_NAME = b'"usage"'
_USAGE = re.compile(_NAME + rb"\s*:\s*\{((?:[^{}]++|\{[^{}]*+\})*+)\}")
_TOKENS = re.compile(
    rb'"(prompt|input|completion|output)_tokens"\s*:\s*([0-9]{1,12})\s*(?=[,}]|\Z)'
)
_TOKENS_MAX = 1 << 24
"""More than any context window; an engine that says more is not believed, for keys pay by it."""
_KINDS = {b"prompt": "prompt", b"input": "prompt", b"completion": "completion"}

Labels = tuple[str, ...]


class Histogram:
    """Buckets by upper bound, the last one without a bound, and the sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class ResponseMeter:
    """One answer while it passes; told of each of its chunks."""

    __slots__ = (
        "_before",
        "_gaps",
        "_last",
        "_later",
        "_tokens",
        "first",
        "first_s",
        "last_s",
        "size",
    )

    def __init__(self, gaps: Histogram | None) -> None:
        self._gaps: Histogram | None = None
        """Of the chunks after the first one."""
        self._later = gaps
        self._before = b""
        self._last = b""
        self._tokens: dict[str, int] | None = None
        self.first = b""
        """The first piece."""
        self.last_s = 0.0
        """When the last piece came."""
        self.first_s: float | None = None
        """When its first byte came."""
        self.size = 0

    def chunk(self, data: bytes, now_s: float) -> None:
        if self._gaps is not None:
            self._gaps.observe(now_s - self.last_s)
        elif self.first_s is None:
            self.first_s, self.first = now_s, data
            self._gaps = self._later
        self.last_s = now_s
        size = len(data)
        self.size += size
        if size < _CRUMB_BYTES:
            self._last = (self._last + data)[-_TAIL_BYTES:]
            return
        # Kept, not copied: the end of an answer may be spread over two chunks.
        self._before, self._last = self._last, data

    def tail(self) -> bytes:
        """The last two pieces, which hold at least the last line."""
        return self._before + self._last

    def tokens(self) -> dict[str, int]:
        """How many tokens the whole answer says that it took, by kind; empty if it does not say."""
        if self._tokens is None:
            self._tokens = usage_of(self._before[-_TAIL_BYTES:] + self._last[-_TAIL_BYTES:])
        return self._tokens


def usage_of(tail: bytes) -> dict[str, int]:
    """The tokens in the last `usage` of the end of an answer, in whichever dialect.

    A quote within a text is escaped in JSON, so nothing that was said can pose as it.
    """
    at = len(tail)
    while (at := tail.rfind(_NAME, 0, at)) >= 0:
        found = _USAGE.match(tail, at)
        if found is not None:
            counts = _TOKENS.findall(found[1])
            return {
                _KINDS.get(kind, "completion"): tokens
                for kind, count in counts
                if (tokens := bounded_int(count.decode(), most=_TOKENS_MAX)) is not None
            }
    return {}


class InFlight:
    """While it is entered, one more request of a model is under way."""

    __slots__ = ("_in_flight", "_model_id")

    def __init__(self, in_flight: dict[str, int], model_id: str) -> None:
        self._in_flight = in_flight
        self._model_id = model_id

    def __enter__(self) -> None:
        self._in_flight[self._model_id] = self._in_flight.get(self._model_id, 0) + 1

    def __exit__(self, *_: object) -> None:
        self._in_flight[self._model_id] -= 1
        if not self._in_flight[self._model_id]:
            del self._in_flight[self._model_id]


class Traffic:
    """All counters of one daemon, by the names under which /metrics has them."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[Labels, int]] = {}
        self.histograms: dict[str, dict[Labels, Histogram]] = {}
        self.in_flight: dict[str, int] = {}

    def add(self, name: str, labels: Labels, amount: int = 1) -> None:
        counts = self.counts.setdefault(name, {})
        labels = _bounded(counts, labels)
        counts[labels] = counts.get(labels, 0) + amount

    def histogram(self, name: str, model_id: str) -> Histogram:
        histograms = self.histograms.setdefault(name, {})
        labels = _bounded(histograms, (model_id,))
        found = histograms.get(labels)
        if found is None:
            found = histograms[labels] = Histogram(_BOUNDS[name])
        return found

    def response_meter(self, model_id: str, *, streaming: bool) -> ResponseMeter:
        """For the answer of a model; between the chunks of a stream the time is taken."""
        gaps = self.histogram("sparkd_chunk_gap_seconds", model_id) if streaming else None
        return ResponseMeter(gaps)

    def in_flight_request(self, model_id: str, size: int) -> InFlight:
        """From the moment at which a request with a body of `size` is right to its end."""
        self.add("sparkd_request_bytes_total", (model_id,), size)
        return InFlight(self.in_flight, model_id)

    def ended(
        self, labels: Labels, response_meter: ResponseMeter | None, *, began_s: float, now_s: float
    ) -> dict[str, int]:
        """A request is over; the labels are model, operation, status and reason.

        Returns the tokens that its answer says it took, by kind.
        """
        model_id = labels[0]
        self.add("sparkd_requests_total", labels)
        self.histogram("sparkd_request_duration_seconds", model_id).observe(now_s - began_s)
        if response_meter is None or response_meter.first_s is None:
            return {}
        first_s = response_meter.first_s - began_s
        self.histogram("sparkd_time_to_first_byte_seconds", model_id).observe(first_s)
        self.add("sparkd_response_bytes_total", (model_id,), response_meter.size)
        tokens = response_meter.tokens()
        for kind, count in tokens.items():
            self.add("sparkd_tokens_total", (model_id, kind), count)
        return tokens

    def waited(self, model_id: str, wait_s: float) -> None:
        """A request has left the queue."""
        self.histogram("sparkd_queue_wait_seconds", model_id).observe(wait_s)

    def dump(self) -> dict[str, Any]:
        """All that is counted for good, as JSON can have it."""
        return {
            "counts": {
                name: [[*labels, count] for labels, count in counts.items()]
                for name, counts in self.counts.items()
            },
            "histograms": {
                name: [[*labels, one.sum, one.counts] for labels, one in histograms.items()]
                for name, histograms in self.histograms.items()
            },
        }

    def restore(self, dumped: object) -> None:
        """Go on from what another daemon counted. What does not fit is left out."""
        for name, row in _rows(dumped, "counts"):
            *labels, count = row or [None]
            amount = plain_int(count)
            if amount is not None and all(isinstance(label, str) for label in labels):
                self.add(name, tuple(labels), amount)
        for name, row in _rows(dumped, "histograms"):
            if name in _BOUNDS and len(row) == 3 and isinstance(row[0], str):
                self._restore_histogram(name, *row)

    def _restore_histogram(self, name: str, model_id: str, total: object, counts: object) -> None:
        histogram, total_s = self.histogram(name, model_id), plain_float(total)
        numbers = [plain_int(count) for count in counts] if isinstance(counts, list) else []
        known = [number for number in numbers if number is not None]
        if total_s is not None and len(known) == len(numbers) == len(histogram.counts):
            histogram.counts, histogram.sum = known, total_s


def _rows(dumped: object, name: str) -> Iterator[tuple[str, list[Any]]]:
    """The rows of all tables of a dump, each with the name of its table."""
    tables = dumped.get(name) if isinstance(dumped, dict) else None
    for family, rows in tables.items() if isinstance(tables, dict) else ():
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, list):
                yield str(family), row


def _bounded(known: Mapping[Labels, object], labels: Labels) -> Labels:
    if labels in known or len(known) < LABEL_SETS_MAX:
        return labels
    return (OTHER,) * len(labels)
