# SPDX-License-Identifier: Apache-2.0
"""The middleware that lets an engine sleep: locks of the kernel, an engine that notes its calls."""

from __future__ import annotations

import asyncio
import fcntl
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparkd.in_container import sparkd_sleep
from sparkd.in_container.sparkd_sleep import SleepRoutes

pytestmark = pytest.mark.integration


class Engine:
    """Notes what it is told, and whether the lane was locked at that moment."""

    def __init__(self, lane: Path) -> None:
        self.lane = lane
        self.calls: list[tuple[str, object, bool]] = []
        self.fails = ""

    def _note(self, call: str, argument: object) -> None:
        self.calls.append((call, argument, locked(self.lane)))
        if call == self.fails:
            raise RuntimeError("told to fail")

    async def sleep(self, level: int) -> None:
        self._note("sleep", level)

    async def wake_up(self, tags: list[str] | None = None) -> None:
        self._note("wake_up", tags)

    async def collective_rpc(self, method: str) -> None:
        self._note("collective_rpc", method)


def locked(path: Path) -> bool:
    """Whether somebody who opens the file anew cannot have it for himself."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def foreign(path: Path) -> Iterator[None]:
    """Another process that has the lock for itself."""
    holder = ["flock", "--no-fork", "--exclusive", str(path), "cat"]
    with subprocess.Popen(holder, stdin=subprocess.PIPE) as process:
        while not locked(path):
            assert process.poll() is None
            time.sleep(0.01)
        yield
        process.kill()


class Server:
    """As a model's process is: the locks taken before it began, the middleware around an app."""

    def __init__(self, gpu: Path, lane: Path) -> None:
        self.gpu, self.lane = gpu, lane
        self.engine = Engine(lane)
        self.passed: list[str] = []
        self._routes = SleepRoutes(self._application)

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed.append(scope["path"])

    async def ask(self, target: str, method: str = "POST") -> tuple[int, Any]:
        path, _, query = target.partition("?")
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "app": SimpleNamespace(state=SimpleNamespace(engine_client=self.engine)),
        }
        await self._routes(scope, None, send)  # type: ignore[arg-type]
        return (sent[0]["status"], json.loads(sent[1]["body"])) if sent else (0, None)

    @property
    def locks(self) -> tuple[bool, bool]:
        return locked(self.gpu), locked(self.lane)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    gpu, lane = tmp_path / "gpu.lock", tmp_path / "lane.lock"
    gpu.touch()
    lane.touch()
    modes = {str(gpu): fcntl.LOCK_SH, str(lane): fcntl.LOCK_EX}
    monkeypatch.setattr(sparkd_sleep, "MODES", modes)
    with gpu.open() as first, lane.open() as second:
        fcntl.flock(first, fcntl.LOCK_SH)
        fcntl.flock(second, fcntl.LOCK_EX)
        yield Server(gpu, lane)


async def test_locks_are_let_go_of_once_it_sleeps_and_taken_before_it_wakes(server: Server) -> None:
    assert server.locks == (True, True)
    assert await server.ask("/sparkd/sleep?level=1") == (200, {"level": 1})
    assert server.locks == (False, False)
    assert await server.ask("/sparkd/wake") == (200, {"level": 0})
    assert server.locks == (True, True)
    assert server.engine.calls == [("sleep", 1, True), ("wake_up", None, True)]


async def test_level_2_reads_the_weights_again_before_there_is_a_cache(server: Server) -> None:
    await server.ask("/sparkd/sleep?level=2")
    await server.ask("/sparkd/wake")
    assert [(call, argument) for call, argument, _ in server.engine.calls] == [
        ("sleep", 2),
        ("wake_up", ["weights"]),
        ("collective_rpc", "reload_weights"),
        ("wake_up", ["kv_cache"]),
    ]


@pytest.mark.parametrize("which", ["gpu", "lane"])
async def test_who_finds_a_lock_taken_sleeps_on_and_holds_none(server: Server, which: str) -> None:
    await server.ask("/sparkd/sleep?level=2")
    before = list(server.engine.calls)
    with foreign(server.gpu if which == "gpu" else server.lane):
        assert (await server.ask("/sparkd/wake"))[0] == 409
    assert server.locks == (False, False)
    assert server.engine.calls == before
    assert (await server.ask("/sparkd/wake"))[0] == 200


async def test_what_is_said_twice_is_done_once(server: Server) -> None:
    both = await asyncio.gather(server.ask("/sparkd/sleep?level=2"), server.ask("/sparkd/sleep"))
    assert [status for status, _ in both] == [200, 200]
    assert len(server.engine.calls) == 1
    await server.ask("/sparkd/wake")
    calls = len(server.engine.calls)
    assert (await server.ask("/sparkd/wake"))[0] == 200
    assert len(server.engine.calls) == calls
    assert server.locks == (True, True)


async def test_engine_that_fails_to_sleep_keeps_its_locks(server: Server) -> None:
    server.engine.fails = "sleep"
    status, said = await server.ask("/sparkd/sleep?level=1")
    assert (status, said) == (500, {"error": "RuntimeError: told to fail"})
    assert server.locks == (True, True)


async def test_engine_that_fails_to_wake_says_so_and_holds_its_locks(server: Server) -> None:
    await server.ask("/sparkd/sleep?level=2")
    server.engine.fails = "collective_rpc"
    assert (await server.ask("/sparkd/wake"))[0] == 500
    assert server.locks == (True, True)


async def test_process_without_the_locks_open_does_not_sleep(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparkd_sleep, "MODES", {"/nowhere/gpu.lock": fcntl.LOCK_SH})
    status, said = await server.ask("/sparkd/sleep?level=1")
    assert status == 500
    assert "/nowhere/gpu.lock" in said["error"]
    assert server.engine.calls == []


async def test_everything_else_is_the_engines(server: Server) -> None:
    for method, path in [("POST", "/v1/completions"), ("GET", "/sparkd/wake"), ("POST", "/sleep")]:
        await server.ask(path, method)
    assert server.passed == ["/v1/completions", "/sparkd/wake", "/sleep"]
    assert server.engine.calls == []
