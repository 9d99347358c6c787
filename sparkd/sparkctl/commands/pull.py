# SPDX-License-Identifier: Apache-2.0
"""`sparkctl pull`: fetch the weights and files of a model to the paths in its entry.

It shows bars on stderr on a terminal, and a periodic line elsewhere. With `--json` it prints one
object per line on stdout, the last of which is the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sparkd.adapters.files.config_files import config_paths
from sparkd.core.model import ModelSpec
from sparkd.core.quantities import count_of, readable_size
from sparkd.sparkctl import catalog, output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sparkd.fetch.puller import Pulled, Watcher

_LINE_INTERVAL_S = 15.0
_JSON_INTERVAL_S = 1.0
_LONG_PAUSE_S = 30.0
"""The shortest pause that is reported with the time of day."""
_ENDPOINT = "HF_ENDPOINT"


def run(options: Options) -> Exit:
    # Read before root becomes sparkd, although that keeps this variable.
    endpoint = os.environ.get(_ENDPOINT)
    privileges.act_as_sparkd(options.words)
    config = catalog.load()
    spec = catalog.find(config, options.model)
    with _watcher(as_json=options.json) as watcher:
        pulled = _run_to_end(spec, endpoint or config.settings.hub, watcher)
    if options.json:
        print(json.dumps(as_json(spec.model_id, pulled)))
    else:
        print(text(spec.model_id, pulled))
    return Exit.OK


def text(model_id: str, pulled: list[Pulled]) -> str:
    """One line per destination."""
    if not pulled:
        return f"{model_id} needs nothing that could be fetched"
    return "\n".join(
        f"{one.path}: {one.source}, "
        + (f"{readable_size(one.fetched_bytes)} fetched" if one.fetched_bytes else "was there")
        for one in pulled
    )


def as_json(model_id: str, pulled: list[Pulled]) -> dict[str, object]:
    return {
        "event": "done",
        "id": model_id,
        "pulled": [
            {
                "path": str(one.path),
                "source": one.source,
                "commit": one.commit,
                "fetched_bytes": one.fetched_bytes,
            }
            for one in pulled
        ],
    }


def _run_to_end(spec: ModelSpec, endpoint: str, watcher: Watcher) -> list[Pulled]:
    from sparkd.adapters.hub import Hub, read_token
    from sparkd.fetch.puller import Puller
    from sparkd.lifecycle.leases import Leases

    token = read_token(config_paths(os.environ).settings.parent, os.environ)

    async def pull() -> list[Pulled]:
        whole = asyncio.current_task()
        assert whole is not None
        for signum in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signum, whole.cancel)
        layout = catalog.layout()
        async with Hub(endpoint, token) as hub:
            return await Puller(layout, Leases(layout), hub, watcher).pull(spec)

    try:
        return asyncio.run(pull())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _watcher(*, as_json: bool) -> Iterator[Watcher]:
    if as_json:
        yield JsonLines()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        with _bars() as progress:
            yield Bars(progress)


@dataclass(slots=True)
class JsonLines:
    """One object per line on stdout, at most one per second and file, except for the last."""

    told_s: dict[str, float] = field(default_factory=dict)

    def planned(self, count: int, total_bytes: int | None) -> None:
        self._print(event="planned", files=count, total_bytes=total_bytes)

    def progressed(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        now_s = time.monotonic()
        if done_bytes == total_bytes or now_s - self.told_s.get(name, 0) >= _JSON_INTERVAL_S:
            self.told_s[name] = now_s
            self._print(event="progress", file=name, bytes=done_bytes, total_bytes=total_bytes)

    def retrying(self, name: str, why: str, pause_s: float) -> None:
        self._print(event="retrying", file=name, why=why, pause_s=pause_s)

    def noted(self, text: str) -> None:
        self._print(event="note", text=text)

    def _print(self, **value: object) -> None:
        print(json.dumps(value), flush=True)


@dataclass(slots=True)
class Lines:
    """Lines for logs: one at the beginning, one periodically, one for each failure."""

    total_bytes: int | None = None
    done: dict[str, int] = field(default_factory=dict)
    told_s: float = field(default_factory=time.monotonic)

    def planned(self, count: int, total_bytes: int | None) -> None:
        self.total_bytes = total_bytes
        if count:
            size = f", {readable_size(total_bytes)}" if total_bytes is not None else ""
            print(f"{count_of(count, 'file')} to fetch{size}", file=sys.stderr)

    def progressed(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        del total_bytes
        self.done[name] = done_bytes
        if time.monotonic() - self.told_s >= _LINE_INTERVAL_S:
            self.told_s = time.monotonic()
            whole = f" of {readable_size(self.total_bytes)}" if self.total_bytes else ""
            print(f"{readable_size(sum(self.done.values()))}{whole}", file=sys.stderr)

    def retrying(self, name: str, why: str, pause_s: float) -> None:
        print(f"{_again(name, why, pause_s)}", file=sys.stderr)

    def noted(self, text: str) -> None:
        print(output.printable(text), file=sys.stderr)


class Bars:
    """A bar for each file in progress, and one for all files together."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}
        self._whole: TaskID | None = None

    def planned(self, count: int, total_bytes: int | None) -> None:
        if count:
            files = count_of(count, "file")
            self._whole = self._progress.add_task(files, total=total_bytes)

    def progressed(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total_bytes)
        task = self._tasks[name]
        self._progress.update(task, completed=done_bytes, visible=done_bytes != total_bytes)
        self._done[name] = done_bytes
        if self._whole is not None:
            self._progress.update(self._whole, completed=sum(self._done.values()))

    def retrying(self, name: str, why: str, pause_s: float) -> None:
        self.noted(_again(name, why, pause_s))

    def noted(self, text: str) -> None:
        self._progress.console.print(output.printable(text), markup=False, highlight=False)


def _again(name: str, why: str, pause_s: float) -> str:
    when = f"in {pause_s:g} s" if pause_s else "now"
    if pause_s >= _LONG_PAUSE_S:
        when += f", at {time.strftime('%H:%M:%S', time.localtime(time.time() + pause_s))}"
    told = why if why.startswith(name) else f"{name}: {why}"
    return output.printable(f"{told}; again {when}")


def _bars() -> Progress:
    # A local import: only the bars need rich.
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
