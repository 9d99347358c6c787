# SPDX-License-Identifier: Apache-2.0
"""The actions of people and programs on a host in use, each as an activity of a `Company`."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from concurrent.futures import Future
from typing import Any

import httpx
import yaml

from sparkd.core.model import Settings

from .accounting import Series, scraped
from .hosts import Stream, chat_body, client
from .load_actors import Activity
from .soak import MODELS
from .test_keys import add, error_of
from .test_lifecycle import container_id
from .test_upgrade import NEWER, THIS, install, version

CATALOG = "/etc/sparkd/models.d/fake.yaml"
IDLE_TIMEOUT = "3s"
_ENDS = ("model-ready", "model-stopped", "model-ended")
REVOKED_AFTER_S = 0.2
"""A revoked key may count for a tenth of a second: docs/security.md."""
_SETTLES_S = 90.0
"""How long what must come true may take: a gateway that is told to stop drains for 30 s, and the
machine is busy."""


class Scrapes(Activity):
    """Prometheus: it is never refused, and what lasts never falls."""

    every_s = 5.0
    lasting = ("sparkd_model_stops_total", "sparkd_model_load_seconds_count")

    def begin(self) -> None:
        self.slowest_s = 0.0
        self._before: Series = {}

    def step(self) -> None:
        began_s = time.monotonic()
        page = {key: value for key, value in scraped(self.host).items() if key[0] in self.lasting}
        self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        self.counts["scrapes"] += 1
        before, self._before = self._before, page
        fallen = {
            key: (was, page.get(key)) for key, was in before.items() if page.get(key, 0) < was
        }
        assert not fallen, fallen

    def end(self) -> None:
        print(f"the slowest scrape took {self.slowest_s:.1f} s")


class Listener(Activity):
    """A client of /events that comes back with the id it saw last: it is told each start and each
    end of a model once, whatever became of the gateways that told it."""

    every_s = 5.0

    def begin(self) -> None:
        self._key = self.host.key
        self._cursor = self.host.cursor()
        self._last = str(time.time_ns() // 1000)
        self._told: list[tuple[str, str]] = []
        """By id, its event."""
        self._listening: Future[None] = asyncio.run_coroutine_threadsafe(
            self._listen(), self.host.loop.event_loop
        )

    async def _listen(self) -> None:
        while True:
            began_s = time.monotonic()
            self.counts["connections of the listener"] += 1
            try:
                await self._connection()
            except httpx.HTTPError:
                # A cut that is told a moment before the kill has returned is one all the same.
                await asyncio.sleep(1)
                if not self.soak.was_cut(began_s):
                    raise
            await asyncio.sleep(1)

    async def _connection(self) -> None:
        headers = {"last-event-id": self._last}
        async with (
            client(self._key, timeout_s=_SETTLES_S) as http,
            http.stream("GET", "/events", headers=headers) as response,
        ):
            assert response.status_code == 200
            async for line in response.aiter_lines():
                field, _, value = line.partition(": ")
                if field == "id":
                    self._last = value
                elif field == "event" and value in _ENDS:
                    self._told.append((self._last, value))

    def step(self) -> None:
        if self._listening.done():
            self._listening.result()

    def end(self) -> None:
        def happened() -> Counter[tuple[str, str]]:
            matches = (f"SPARKD_EVENT={name}" for name in _ENDS)
            entries = self.host.journal(*matches, since=self._cursor)
            return Counter((e["__REALTIME_TIMESTAMP"], e["SPARKD_EVENT"]) for e in entries)

        deadline_s = time.monotonic() + _SETTLES_S
        while Counter(self._told) != happened() and time.monotonic() < deadline_s:
            time.sleep(1)
        self._listening.cancel()
        told, journal = Counter(self._told), happened()
        assert told == journal, f"not told: {journal - told}; not in the journal: {told - journal}"
        self.counts["events told"] += told.total()


class Reloads(Activity):
    """Somebody edits the catalog and reloads; the entry of one model changes and changes back, and
    one that runs is started anew."""

    every_s = 20.0
    model = "fake-c"
    lengths = (8192, 4096)

    def begin(self) -> None:
        self._catalog = yaml.safe_load(self.host.run("cat", CATALOG).stdout)
        for model in MODELS:
            self._catalog["models"][model]["idle_timeout"] = IDLE_TIMEOUT
        entry = self._catalog["models"][self.model]
        del entry["max_model_len"]
        self._args: list[str] = entry["args"]
        self._change(self.lengths[0])

    def step(self) -> None:
        length = self.lengths[(self.counts["reloads"] + 1) % 2]
        self.counts["reloads"] += 1
        self._change(length)
        self.host.wait_until(lambda: self._told() == length, "the new entry counts", _SETTLES_S)

    def _change(self, length: int) -> None:
        args = [*self._args, "--max-model-len", length]
        self._catalog["models"][self.model]["args"] = args
        self.host.run("tee", f"{CATALOG}.new", input=yaml.safe_dump(self._catalog))
        self.host.run("mv", f"{CATALOG}.new", CATALOG)
        # Of a gateway that is just being killed or stopped it may fail; the next one reads it all.
        self.host.run("systemctl", "try-reload-or-restart", "sparkd.service", check=False)

    def _told(self) -> int:
        entry = self.host.request("GET", f"/v1/models/{self.model}").json()
        return int(entry["max_model_len"])


class Upgrades(Activity):
    """The package is changed for a newer one and back while a stream is open: it goes on."""

    every_s = 75.0
    ends_gateways = True

    def begin(self) -> None:
        self._debs = (NEWER, THIS)
        self._takes_s = 8.0

    def step(self) -> None:
        with self.soak.peace:
            self._upgrade(self.random.choice(MODELS))

    def _upgrade(self, model: str) -> None:
        # Surely open when the package is in place, surely over before the gateway stops waiting.
        length_s = min(3 * self._takes_s + 3, Settings().drain_timeout_s - 2)
        stream = Stream(self.host, model, tokens=int(length_s * 10), pace_ms=100)
        stream.wait_first(_SETTLES_S)
        if stream.status != 200 or '"content"' not in stream.text:
            self.counts["upgrades put off, the model had just been killed"] += 1
            return
        container, was = container_id(self.host, model), version(self.host)
        began_s = time.monotonic()
        install(self.host, self._debs[self.counts["upgrades"] % 2])
        self._takes_s = time.monotonic() - began_s
        self.counts["upgrades"] += 1
        if not stream.whole:
            self.counts["upgrades within a stream"] += 1
            assert container_id(self.host, model) == container
        assert version(self.host) != was
        stream.wait(_SETTLES_S)
        assert (stream.status, stream.whole) == (200, True), (stream.error, stream.text[-500:])
        self.soak.answered["200"] += 1


class Commands(Activity):
    """sparkctl, used by somebody who looks: it never fails, whatever happens to be going on."""

    every_s = 7.0
    lines = ("ps", "top", "stats", "doctor", "status", "models", "check", "show fake-c")

    def step(self) -> None:
        line = self.random.choice(self.lines)
        self.counts[f"sparkctl {line}"] += 1
        said = self.host.run("sparkctl", *line.split(), "--json")
        assert said.stderr == ""
        json.loads(said.stdout)


class Keys(Activity):
    """Somebody is given a key and loses it again; what it may not do is refused meanwhile."""

    every_s = 15.0

    def step(self) -> None:
        self.counts["keys"] += 1
        name = f"long-{self.counts['keys']}"
        key = add(self.host, name, "--model", "fake-util")
        try:
            listed = self.host.request("GET", "/v1/models", key=key)
            assert [entry["id"] for entry in listed.json()["data"]] == ["fake-util"], listed.text
            self._refused(key, "fake-b", 403, "model_forbidden")
            self._refused("", "nobody", 404, "model_not_found")
        finally:
            self.host.run("sparkctl", "key", "revoke", name)
        time.sleep(REVOKED_AFTER_S)
        self._refused(key, "fake-util", 401, "invalid_api_key")

    def _refused(self, key: str, model: str, status: int, code: str) -> None:
        body: dict[str, Any] = chat_body(model)
        response = self.host.request("POST", "/v1/chat/completions", key=key, json=body)
        self.soak.answered[str(response.status_code)] += 1
        assert error_of(response, status)["code"] == code
        self.counts[f"refused {code}"] += 1
