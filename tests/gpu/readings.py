# SPDX-License-Identifier: Apache-2.0
"""What the checks look at: the GPU, control groups of the host, answers with their times.

Readings only; what has to hold is said where it is checked.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparkd.core.names import Names
from tests.system.hosts import Guest, Host, chat_body, client

Json = dict[str, Any]
MIB = 1 << 20
_SAMPLE_S = 0.1


def gpu_used_mib() -> int:
    """What is taken of the GPU's memory, by whoever, as the machine sees it."""
    return int(_smi("memory.used").split()[0])


def machine(host: Host) -> Json:
    """On what the figures were taken."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert cpu is not None
    assert memory is not None
    return {
        "taken_at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "gpu": _smi("name"),
        "gpu_memory_mib": int(_smi("memory.total").split()[0]),
        "driver": _smi("driver_version"),
        "cpu": cpu[1],
        "cores": len(Path("/proc/cpuinfo").read_text().split("\nprocessor")) or 1,
        "memory_gib": round(int(memory[1]) / (1 << 20), 1),
        "kernel": platform.release(),
        "host": host.sh("sed -n 's/^PRETTY_NAME=\"\\(.*\\)\"/\\1/p' /etc/os-release"),
        "systemd": host.sh("systemctl --version | head -n1"),
        "podman": host.sh("podman --version"),
        "sparkd": host.sh("dpkg-query -W -f '${Version}' sparkd"),
        "controllers": host.sh("cat /sys/fs/cgroup/cgroup.controllers"),
    }


def _smi(query: str) -> str:
    ask = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def gpu_memory_watched() -> Iterator[list[tuple[float, int]]]:
    """Sample the GPU's memory for a while: (seconds since the epoch, MiB used)."""
    samples: list[tuple[float, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_S):
            samples.append((time.time(), gpu_used_mib()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        over.set()
        watcher.join()


# -- answers -----------------------------------------------------------------------------------


def ask(
    host: Host, model: str, text: str = "What is the capital of France?", **fields: Any
) -> Json:
    """One whole answer: status, time, what it says or the error."""
    began_s = time.monotonic()
    answer = host.chat(model, text, timeout_s=fields.pop("timeout_s", 400.0), **fields)
    found: Json = {"model": model, "status": answer.status_code}
    found["seconds"] = round(time.monotonic() - began_s, 3)
    body = answer.json()
    if answer.status_code == 200:
        found["text"] = body["choices"][0]["message"]["content"]
        found["tokens"] = body["usage"]["completion_tokens"]
    else:
        found["error"] = body.get("error", body)
    return found


@dataclass
class Streamed:
    """A streaming request that runs beside the checks."""

    host: Host
    model: str
    body: Json
    began_s: float = 0.0
    first_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0
    chunks: list[bytes] = field(default_factory=list)
    broke: str = ""
    _first: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def begin(
        cls, host: Host, model: str, text: str = "Tell me a story.", **fields: Any
    ) -> Streamed:
        stream = cls(host, model, chat_body(model, text, stream=True, **fields))
        stream.began_s = time.monotonic()
        threading.Thread(target=lambda: host.loop.run(stream._read(host.key), 900)).start()
        return stream

    async def _read(self, key: str) -> None:
        try:
            async with (
                client(key, timeout_s=600) as http,
                http.stream("POST", "/v1/chat/completions", json=self.body) as response,
            ):
                self.status = response.status_code
                async for chunk in response.aiter_raw():
                    if b'"content"' in chunk and not self.first_s:
                        self.first_s = time.monotonic()
                        self._first.set()
                    self.chunks.append(chunk)
        except Exception as error:
            self.broke = f"{type(error).__name__}: {error}"
        finally:
            self.ended_s = time.monotonic()
            self._first.set()
            self._over.set()

    def wait_first(self, timeout_s: float = 300.0) -> None:
        assert self._first.wait(timeout_s), f"{self.model} streams nothing"

    def wait(self, timeout_s: float = 300.0) -> Json:
        """What came of it."""
        assert self._over.wait(timeout_s), f"the stream of {self.model} does not end"
        text = b"".join(self.chunks).decode(errors="replace")
        return {
            "model": self.model,
            "status": self.status,
            "first_token_s": round(self.first_s - self.began_s, 3) if self.first_s else None,
            "seconds": round(self.ended_s - self.began_s, 3),
            "events": text.count("\ndata: ") + text.startswith("data: "),
            "whole": text.rstrip().endswith("data: [DONE]"),
            "broke": self.broke,
            "end": text.strip()[-600:] if not text.rstrip().endswith("data: [DONE]") else "",
        }


# -- the host ----------------------------------------------------------------------------------


def root_of(host: Host) -> Path:
    pid = Guest(host.name).leader_pid()
    assert pid is not None
    return Path(f"/proc/{pid}/root")


def scope_of(host: Host, model: str) -> Path:
    """The control group of a model, as the machine sees it."""
    uid = int(host.sh("id -u sparkd"))
    manager = f"user.slice/user-{uid}.slice/user@{uid}.service"
    return root_of(host) / f"sys/fs/cgroup/{manager}/sparkd.slice/{Names(model).scope}"


def service_of(host: Host) -> Path:
    """The control group of the gateway."""
    group = host.sh("systemctl show -P ControlGroup sparkd.service")
    return root_of(host) / f"sys/fs/cgroup{group}"


def daemon_pid(host: Host) -> int:
    return int(host.sh("systemctl show -P MainPID sparkd.service"))


def running(host: Host) -> dict[str, Json]:
    """The models that run, by what `sparkctl ps` says; it needs no gateway."""
    listed = json.loads(host.run("sparkctl", "ps", "--json").stdout)
    return {each["id"]: each for each in listed}


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> float:
    """Wait until it holds; how long that took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < timeout_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)
    return round(time.monotonic() - began_s, 3)
