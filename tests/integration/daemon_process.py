# SPDX-License-Identifier: Apache-2.0
"""The daemon in a process of its own, without systemd and Podman, over a server that is given.

Everything of the way through is real: Sanic, the locks, the transport. What a start would have
found out is told instead: model `m` runs, and listens where the test does. As a program it is the
daemon; `Gateway` starts it and looks at it from outside.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from sparkd.adapters.systemd.notify import Notifier
from sparkd.core.container.spec import spec_hash
from sparkd.core.observed import Endpoint, Instance
from sparkd.gateway.daemon import Daemon

KEY = "some-key"
CATALOG = """\
defaults: {image: "localhost/none:latest", weights: none, max_model_len: 8192}
models:
  m: {dialects: [chat, completions, responses, messages, embeddings]}
"""
_START_LIMIT_S = 120.0


class Gateway:
    """One daemon for the tests of a module."""

    def __init__(
        self, directory: Path, *, patience_s: float | None = None, settings: str = ""
    ) -> None:
        """`patience_s` is how long it waits for slow clients, `settings` its sparkd.yaml."""
        self.directory = directory
        self.engine = directory / "api.sock"
        self._log = directory / "log"
        for name in ("run/locks", "state", "etc", "catalog"):
            (directory / name).mkdir(parents=True)
        for name in ("gpu", "lane"):
            (directory / f"run/{name}.lock").touch()
        key_file = directory / "etc/api-key"
        key_file.touch(0o600)
        key_file.write_text(f"{KEY}\n")
        (directory / "catalog/m.yaml").write_text(CATALOG)
        (directory / "etc/sparkd.yaml").write_text(settings)
        places = {
            "SPARKD_RUNTIME_DIR": directory / "run",
            "SPARKD_STATE_DIR": directory / "state",
            "SPARKD_CONFIG_DIR": directory / "etc",
            "SPARKD_CATALOG_DIR": directory / "catalog",
            "XDG_RUNTIME_DIR": directory,
        }
        environ = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
        with (
            socket.create_server(("127.0.0.1", 0), backlog=512) as listening,
            self._log.open("w") as log,
        ):
            self.port = int(listening.getsockname()[1])
            told = [str(listening.fileno()), str(self.engine), str(patience_s or "")]
            self._process = subprocess.Popen(
                [sys.executable, __file__, *told],
                env={
                    **environ,
                    **{n: str(p) for n, p in places.items()},
                    "PYTHONPATH": os.getcwd(),
                },
                pass_fds=[listening.fileno()],
                stderr=log,
            )
        until_s = time.monotonic() + _START_LIMIT_S
        while "serves" not in self.log():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < until_s, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        return self._log.read_text()

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def end(self) -> None:
        self._process.terminate()
        assert self._process.wait(60) == 0


class _Alone(Daemon):
    def __init__(self, listening: socket.socket, engine: Path) -> None:
        super().__init__([listening], Notifier())
        self._engine = engine

    async def startup(self) -> None:
        await super().startup()
        runtime, spec = self._context.runtime, self._context.config.models["m"]
        instance = Instance(
            model_id=spec.model_id,
            container_id="none",
            pid=os.getppid(),
            spec_hash=spec_hash(spec, runtime.layout),
            endpoint=Endpoint(socket=self._engine),
            started_at=0.0,
            started_s=0.0,
        )
        runtime.ensurer.remember(instance)

    async def _stop_when_idle(self) -> None:
        """The one thing for which it would ask systemd."""


if __name__ == "__main__":
    from sparkd.adapters.journal import writer
    from sparkd.gateway.handlers import keep_alive_timer, relay
    from sparkd.gateway.http import client_link, protocol

    if sys.argv[3]:
        protocol.HEAD_S = protocol.LINGER_S = relay._BODY_STALL_S = float(sys.argv[3])
        client_link.STALL_WANTED_S = keep_alive_timer.INTERVAL_S = float(sys.argv[3])
        client_link.STALL_S = 4 * client_link.STALL_WANTED_S
    writer.configure(environ={})
    asyncio.run(_Alone(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])).run())
