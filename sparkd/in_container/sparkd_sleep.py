# SPDX-License-Identifier: Apache-2.0
"""Two routes in vLLM's server, by which an engine sleeps without the GPU, and wakes.

    POST /sparkd/sleep?level=1   answers 200 once it sleeps and has released its locks
    POST /sparkd/wake            answers 200 once it holds them again and is awake;
                                 409 when another process holds them: nothing has changed then

vLLM loads this through `--middleware sparkd_sleep.SleepRoutes` (it also needs
`--enable-sleep-mode`). vLLM's equivalent routes exist only in its development mode, beside some
that call any method of a worker.

The locks are those under which flock(1) started this process: it left their descriptors open. A
lock belongs to the open file, so this process can release it and take it again. Thus the kernel's
locks still show which process may use the GPU. Level 1 keeps the weights in main memory; level 2
drops them and reads them again. Needs Python 3.9; both calls may be repeated.
"""

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

GPU_LOCK = "/run/sparkd/gpu.lock"
LANE_LOCK = "/run/sparkd/lane.lock"
MODES = {GPU_LOCK: fcntl.LOCK_SH, LANE_LOCK: fcntl.LOCK_EX}
"""The lock modes of a normal model, in the order in which they are taken."""
DESCRIPTORS = "/proc/self/fd"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
Answer = tuple[int, dict[str, object]]


class Engine(Protocol):
    """The part of vLLM's `EngineClient` that this module needs."""

    async def sleep(self, level: int) -> None: ...

    async def wake_up(self, tags: "list[str] | None" = None) -> object: ...

    async def collective_rpc(self, method: str) -> object: ...


class SleepRoutes:
    """ASGI middleware around vLLM's application."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._level = 0
        """The sleep level; 0 while the engine is awake."""
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        route = scope["path"] if scope["type"] == "http" and scope["method"] == "POST" else ""
        if route not in ("/sparkd/sleep", "/sparkd/wake"):
            await self._app(scope, receive, send)
            return
        engine = scope["app"].state.engine_client
        level = 1 if scope["query_string"] == b"level=1" else 2
        async with self._turn:
            try:
                waking = route == "/sparkd/wake"
                status, said = await (self._wake(engine) if waking else self._sleep(engine, level))
            except Exception as error:  # Whatever vLLM raises: who asked decides what follows.
                status, said = 500, {"error": f"{type(error).__name__}: {error}"[:500]}
        await _answer(send, status, said)

    async def _sleep(self, engine: Engine, level: int) -> Answer:
        descriptors = lock_descriptors()
        if not self._level:
            await engine.sleep(level)
            self._level = level
        for descriptor in descriptors.values():
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        return 200, {"level": self._level}

    async def _wake(self, engine: Engine) -> Answer:
        if not _locked(lock_descriptors()):
            return 409, {"error": "the GPU is taken"}
        if self._level == 1:
            await engine.wake_up()
        elif self._level:
            await engine.wake_up(["weights"])
            await engine.collective_rpc("reload_weights")
            await engine.wake_up(["kv_cache"])
        self._level = 0
        return 200, {"level": 0}


def lock_descriptors() -> dict[str, int]:
    """The descriptors of the locks, by path. Raises FileNotFoundError when one is missing."""
    found = {}
    for name in os.listdir(DESCRIPTORS):
        with contextlib.suppress(OSError):  # That of the listing itself is closed by now.
            found[os.readlink(f"{DESCRIPTORS}/{name}")] = int(name)
    missing = [path for path in MODES if path not in found]
    if missing:
        raise FileNotFoundError(f"no open file is {missing[0]}: the command closed it")
    return {path: found[path] for path in MODES}


def _locked(descriptors: dict[str, int]) -> bool:
    """Take all the locks at once, or none."""
    try:
        for path, mode in MODES.items():
            fcntl.flock(descriptors[path], mode | fcntl.LOCK_NB)
    except BlockingIOError:
        for descriptor in descriptors.values():
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    return True


async def _answer(send: Send, status: int, said: dict[str, object]) -> None:
    body = json.dumps(said).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
