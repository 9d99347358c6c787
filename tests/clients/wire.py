# SPDX-License-Identifier: Apache-2.0
"""Foreign programs in a host's network, and a tap between them and the gateway.

A program sees this machine's files and the host's loopback, and nothing else that could be reached:
what it would fetch from elsewhere it cannot.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nspawn_host.guest import Guest

from tests.system.hosts import Host


def command(host: Host, *argv: str | Path) -> list[str]:
    """The command that runs these words in the host's network; all that it leaves ends with it."""
    pid = Guest(host.name).leader_pid()
    assert pid is not None, f"host {host.name} does not run"
    # Some clients leave a server behind. As process 1 of a namespace the first one takes it along.
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *alone, *map(str, argv)]


def environment(home: Path, **more: str | Path) -> dict[str, str]:
    """A clean one, so that nothing of the machine's own settings counts."""
    plain = {"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"}
    return {name: str(value) for name, value in {**plain, **more}.items()}


class Library:
    """A program of `programs/` that is spoken to in lines of JSON."""

    def __init__(self, host: Host, argv: list[str | Path], env: Mapping[str, str]) -> None:
        self.name = Path(argv[-1]).stem
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the program)
        self._process = subprocess.Popen(
            command(host, *argv),
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._read(120).get("ready")

    def do(self, verb: str, *, timeout_s: float = 60.0, **ask: Any) -> dict[str, Any]:
        """What happened when the library was asked for that."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"verb": verb, "ask": ask}) + "\n")
        self._process.stdin.flush()
        return self._read(timeout_s)

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            finally:
                process.kill()
        self._log.close()

    def _read(self, timeout_s: float) -> dict[str, Any]:
        out = self._process.stdout
        assert out is not None
        while select.select([out], [], [], timeout_s)[0]:
            line = out.readline()
            if line.startswith("{"):
                told: dict[str, Any] = json.loads(line)
                return told
            if not line:
                self._log.seek(0)
                raise AssertionError(f"the program ended: {self._log.read()[-4000:]}")
        raise AssertionError(f"the library said nothing for {timeout_s:g} s")


class Tap:
    """Passes connections on to the gateway and keeps what it answered, byte for byte."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._answers: list[bytearray] = []
        self._server = host.loop.run(self._start())
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._connection, "127.0.0.1", 0)

    @property
    def answers(self) -> bytes:
        return b"".join(bytes(answer) for answer in self._answers)

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()

        self._host.loop.run(stop())

    async def _connection(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self._answers.append(kept)
        far, on = await asyncio.open_connection("127.0.0.1", 8009)
        directions = [
            asyncio.ensure_future(_pass_on(near, on, bytearray())),
            asyncio.ensure_future(_pass_on(far, back, kept)),
        ]
        # Whoever leaves first ends the other side too, as without the tap.
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for direction in directions:
            direction.cancel()
        on.close()
        back.close()


async def _pass_on(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray
) -> None:
    try:
        while data := await source.read(1 << 16):
            kept += data
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
