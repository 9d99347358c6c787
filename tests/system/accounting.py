# SPDX-License-Identifier: Apache-2.0
"""Four accounts of the same time: metrics, statistics, the journal, and what the clients saw.

`Accounts` opens them all at one moment; `since` says what each has had since then. Where nothing
was killed they agree to the last one. A daemon that is killed takes the counts of requests since
its start with it, and the lines of those that were open; what is on disk loses nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from .hosts import Host

HOSTILE = "fake-hostile"
"""The model whose every response is an attack."""

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(host: Host) -> Series:
    """Every sample of the metrics page."""
    page = host.request("GET", "/metrics")
    assert page.status_code == 200, page.text
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def stats(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run("sparkctl", "stats", "--json").stdout)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one source says has happened."""

    requests: Counter[tuple[str, str]]
    """By model and status."""
    loads: Counter[str]
    stops: Counter[tuple[str, str]]
    """By model and reason."""

    @property
    def answers(self) -> int:
        """How many requests succeeded; those of the hostile engine do not count."""
        counts = self.requests.items()
        return sum(n for (model, status), n in counts if status == "200" and model != HOSTILE)


class Accounts:
    def __init__(self, host: Host) -> None:
        self._host = host
        # The two that tell of requests last, as there may be some under way.
        self._stats, self._metrics, self._cursor = stats(host), scraped(host), host.cursor()

    def of_metrics(self) -> Account:
        grown = grown_by(self._metrics, scraped(self._host))
        return Account(
            requests=_sum(grown, "sparkd_requests_total", "model", "status"),
            loads=Counter(
                {
                    m: n
                    for (m,), n in _sum(grown, "sparkd_model_load_seconds_count", "model").items()
                }
            ),
            stops=_sum(grown, "sparkd_model_stops_total", "model", "reason"),
        )

    def of_journal(self) -> Account:
        entries = self._host.journal("SYSLOG_IDENTIFIER=sparkd", since=self._cursor)
        kinds: dict[str, list[dict[str, Any]]] = {}
        for entry in entries:
            kinds.setdefault(entry.get("SPARKD_EVENT", ""), []).append(entry)
        stops = Counter(
            (entry["SPARKD_MODEL"], entry["SPARKD_REASON"])
            for entry in kinds.get("model-stopped", [])
        )
        stops += Counter((entry["SPARKD_MODEL"], "ended") for entry in kinds.get("model-ended", []))
        return Account(
            requests=Counter(
                (entry["SPARKD_MODEL"], entry["SPARKD_STATUS"])
                for entry in kinds.get("request", [])
            ),
            loads=Counter(entry["SPARKD_MODEL"] for entry in kinds.get("model-ready", [])),
            stops=stops,
        )

    def of_statistics(self) -> Account:
        """Knows of no requests."""
        loads: Counter[str] = Counter()
        stops: Counter[tuple[str, str]] = Counter()
        for model, after in stats(self._host).items():
            before = self._stats.get(model, {"loads": 0, "ends": {}})
            loads[model] = after["loads"] - before["loads"]
            for reason, count in after["ends"].items():
                stops[model, reason] = count - before["ends"].get(reason, 0)
        return Account(requests=Counter(), loads=+loads, stops=+stops)

    def grown(self, name: str, **labels: str) -> float:
        """By how much a series of the metrics has grown."""
        key = (name, tuple(sorted(labels.items())))
        return scraped(self._host).get(key, 0.0) - self._metrics.get(key, 0.0)


def difference(one: Counter[Any], other: Counter[Any]) -> int:
    """By how many counts the two differ in all."""
    return sum(abs(one[key] - other[key]) for key in {*one, *other})


def grown_by(before: Series, after: Series) -> Series:
    return {
        key: value - before.get(key, 0.0)
        for key, value in after.items()
        if value != before.get(key, 0.0)
    }


def _sum(grown: Series, name: str, *labels: str) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for (family, pairs), value in grown.items():
        if family == name:
            found[tuple(dict(pairs)[label] for label in labels)] += round(value)
    return found
