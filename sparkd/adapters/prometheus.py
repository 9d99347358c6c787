# SPDX-License-Identifier: Apache-2.0
"""Families of metrics as Prometheus reads them; the only code that knows prometheus_client.

Imported at the first scrape, so a daemon without scrapes does not load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from sparkd.core.telemetry.metrics_table import Family, Kind, Samples, Value
from sparkd.core.telemetry.traffic import Histogram


class _Once(Collector):
    def __init__(self, samples: Iterable[Samples]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        return (_metric(one) for one in self._samples)


def exposition(samples: Iterable[Samples]) -> bytes:
    """The page, with this process's own CPU, memory and descriptors."""
    registry = CollectorRegistry()
    registry.register(_Once(list(samples)))
    ProcessCollector(registry=registry)
    page: bytes = generate_latest(registry)
    return page


def _metric(samples: Samples) -> Metric:
    family = samples.family
    match family.kind:
        case Kind.COUNTER:
            counter = CounterMetricFamily(family.name, family.doc, labels=family.labels)
            for labels, value in samples.rows:
                counter.add_metric(labels, _number(value))
            return counter
        case Kind.GAUGE:
            gauge = GaugeMetricFamily(family.name, family.doc, labels=family.labels)
            for labels, value in samples.rows:
                gauge.add_metric(labels, _number(value))
            return gauge
        case Kind.SUMMARY:
            return _summary(family, samples)
        case Kind.HISTOGRAM:
            return _histogram(family, samples)


def _summary(family: Family, samples: Samples) -> Metric:
    summary = SummaryMetricFamily(family.name, family.doc, labels=family.labels)
    for labels, value in samples.rows:
        if isinstance(value, tuple):
            summary.add_metric(labels, *value)
    return summary


def _histogram(family: Family, samples: Samples) -> Metric:
    metric = HistogramMetricFamily(family.name, family.doc, labels=family.labels)
    for labels, value in samples.rows:
        if isinstance(value, Histogram):
            metric.add_metric(labels, _cumulative(value), value.sum)
    return metric


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*(repr(bound) for bound in histogram.bounds), "+Inf"]
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def _number(value: Value) -> float:
    assert not isinstance(value, Histogram | tuple)
    return value
