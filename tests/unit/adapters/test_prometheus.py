# SPDX-License-Identifier: Apache-2.0
"""The metrics page as Prometheus reads it, and what is written about it."""

from __future__ import annotations

import json
import re

import yaml
from prometheus_client.parser import text_string_to_metric_families

from sparkd.adapters.prometheus import exposition
from sparkd.core.telemetry.metrics_table import FAMILIES, Kind, Samples
from sparkd.core.telemetry.traffic import Traffic
from tests.unit.project.sources import ROOT

DASHBOARD = ROOT / "docs/monitoring/grafana-dashboard.json"
SCRAPE = ROOT / "docs/monitoring/prometheus.yml"
_PARTS = {
    Kind.COUNTER: ("",),
    Kind.GAUGE: ("",),
    Kind.SUMMARY: ("_count", "_sum"),
    Kind.HISTOGRAM: ("_bucket", "_count", "_sum"),
}


def exported() -> dict[str, set[str]]:
    """The names of all series with their labels, as a page with one row of each family has them."""
    traffic = Traffic()
    page = exposition(
        Samples(
            family,
            [
                (
                    tuple(f"{label}-1" for label in family.labels),
                    {
                        Kind.SUMMARY: (2, 3.0),
                        Kind.HISTOGRAM: traffic.histogram(family.name, "m")
                        if family.kind is Kind.HISTOGRAM
                        else 0.0,
                    }.get(family.kind, 1.0),
                )
            ],
        )
        for family in FAMILIES.values()
    )
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_family_is_exported_with_its_labels() -> None:
    found = exported()
    for family in FAMILIES.values():
        for part in _PARTS[family.kind]:
            assert found[family.name + part] >= set(family.labels), family.name


def test_buckets_are_cumulative_and_end_with_all() -> None:
    traffic = Traffic()
    for wait_s in (0.005, 0.2, 0.3, 9999.0):
        traffic.waited("m", wait_s)
    name = "sparkd_queue_wait_seconds"
    rows = list(traffic.histograms[name].items())
    (family,) = [
        family
        for family in text_string_to_metric_families(
            exposition([Samples(FAMILIES[name], rows)]).decode()
        )
        if family.name == name
    ]
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert (buckets["0.01"], buckets["0.5"], buckets["1800.0"], buckets["+Inf"]) == (1, 3, 3, 4)


def test_page_tells_of_the_process_itself() -> None:
    assert b"process_resident_memory_bytes" in exposition([])


def documented() -> dict[str, list[str]]:
    rows = {}
    for line in (ROOT / "docs/observability.md").read_text().splitlines():
        if match := re.match(r"\| `(sparkd_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", line):
            rows[match[1]] = [match[2], match[3], match[4]]
    return rows


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    table = {
        family.name: [
            str(family.kind),
            ", ".join(f"`{label}`" for label in family.labels) or "none",
            family.doc,
        ]
        for family in FAMILIES.values()
    }
    assert documented() == table


def test_dashboard_asks_only_for_what_is_exported() -> None:
    found = exported()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    names = {name for expr in asked for name in re.findall(r"\bsparkd_\w+", expr)}
    assert names <= set(found)
    assert {name for expr in asked for name in re.findall(r"\bprocess_\w+", expr)} <= set(found)
    for expr in asked:
        for name, matchers in re.findall(r"\b(sparkd_\w+)\{([^}]*)\}", expr):
            assert set(re.findall(r"(\w+)[!=]", matchers)) <= found[name], expr


def test_dashboard_shows_every_metric() -> None:
    text = DASHBOARD.read_text()
    assert [family for family in FAMILIES if family not in text] == []


def test_scrape_example_is_one_and_names_our_port() -> None:
    (job,) = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8009"]}]
