# SPDX-License-Identifier: Apache-2.0
"""Sleep as vLLM has it: an engine client that sleeps and wakes, and a host for its middleware.

Owns what is asleep and what goes wrong with it (`nap` of behaviour.py). Middleware is loaded by its
import path as the real server does, and spoken to by ASGI; requests that it does not answer go on
to the engine.
"""

import asyncio
import importlib
from types import SimpleNamespace
from typing import Any

from http1 import Connection, Request


class Sleep:
    """What vLLM calls the engine client, as far as middleware needs it."""

    def __init__(self) -> None:
        self.accident = ""
        self.level = 0
        self.awake: set[str] = set()
        self.forgot = False
        self.naps = 0

    async def sleep(self, level: int = 1) -> None:
        if self.accident == "sleep_fails":
            raise RuntimeError("told to fail to sleep")
        self.level, self.awake, self.naps = level, set(), self.naps + 1
        self.forgot = level == 2

    async def wake_up(self, tags: list[str] | None = None) -> None:
        if self.accident == "wake_fails":
            raise RuntimeError("told to fail to wake")
        if self.accident == "wake_hangs":
            await asyncio.Event().wait()
        self.awake |= set(tags or ("weights", "kv_cache"))
        if self.awake == {"weights", "kv_cache"}:
            self.level = 0
            self.forgot = self.forgot or self.accident == "forgets"

    async def collective_rpc(self, method: str) -> None:
        if method == "reload_weights" and "weights" in self.awake:
            self.forgot = False


class Middleware:
    """One class of middleware around the engine."""

    def __init__(self, import_path: str, sleep: Sleep) -> None:
        module, _, name = import_path.rpartition(".")
        self._wrapped = getattr(importlib.import_module(module), name)(self._inner)
        self._app = SimpleNamespace(state=SimpleNamespace(engine_client=sleep))

    async def answers(self, request: Request, reply: Connection) -> bool:
        """Whether it has answered; otherwise the request is the engine's."""
        path, _, query = request.target.partition("?")
        scope = {"type": "http", "method": request.method, "path": path, "app": self._app}
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._wrapped({**scope, "query_string": query.encode()}, None, send)
        if sent:
            reply.send(sent[0]["status"], b"".join(part.get("body", b"") for part in sent))
        return bool(sent)

    @staticmethod
    async def _inner(scope: Any, receive: Any, send: Any) -> None:
        """What is left to the engine."""
