# SPDX-License-Identifier: Apache-2.0
"""What is measured: the ways to one engine in a booted host, and a load generator beside them.

Owns which core each of them runs on, how a job reaches the generator, and how memory and CPU time
are read (from the kernel's own counters, from outside the host). It decides no workload.

Another gateway to compare with is one more `Way`: `rivals` starts those there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.hosts import Guest, Host, chat_body

from .workload import MODEL

LOAD = Path(__file__).with_name("load.py")
PORT = 8009
MIB = 1 << 20

Json = dict[str, Any]


class BenchError(Exception):
    """The run ends: a figure would not mean what its name says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How requests reach the engine, and whose CPU time and memory that takes."""

    name: str
    title: str
    target: Json
    """Where the generator connects to."""
    cgroup: Path | None = None
    """Of all processes that stand between, where they have one of their own."""
    roots: tuple[int, ...] = ()
    """The processes that stand between, where they have none; their children count too."""
    slow: bool = False
    """Left out where it would take minutes."""

    def pids(self) -> list[int]:
        """Of those processes, as this machine numbers them."""
        if self.cgroup is not None:
            return _pids(self.cgroup)
        return [pid for root in self.roots for pid in tree(root)]

    def rss_bytes(self) -> int:
        return sum(_status_bytes(pid, "VmRSS") for pid in self.pids())

    def cpu_s(self) -> float:
        """CPU time since they were started."""
        if self.cgroup is not None:
            return _cpu_s(self.cgroup)
        return sum(_ticks(pid) for pid in self.pids()) / os.sysconf("SC_CLK_TCK")

    def kept_waiting_s(self) -> float:
        """How long their main threads have been ready to run while others had their core."""
        return sum(
            int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
            for pid in self.pids()
        )

    def wakeups(self) -> int:
        """How often they have gone to sleep, which is how often they had been woken."""
        texts = (Path(f"/proc/{pid}/status").read_text() for pid in self.pids())
        return sum(_number(text, "voluntary_ctxt_switches") for text in texts)


class Subject:
    """Host, gateways, engine, generator. Call `close` at the end."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.key = host.key
        leader = Guest(host.name).leader_pid()
        if leader is None:
            raise BenchError(f"host {host.name} does not run")
        self._root = Path(f"/proc/{leader}/root")
        self._cgroups = self._root / "sys/fs/cgroup"
        uid = int(host.sh("id -u sparkd"))
        manager = f"user.slice/user-{uid}.slice/user@{uid}.service"
        self._models = self._cgroups / manager / "sparkd.slice"
        cores = sorted(os.sched_getaffinity(0))
        self._gateway_cores = set(cores[:1])
        self._load_cores = set(cores[1:2] or cores)
        # The engine's own socket, as the machine outside the host sees it.
        self.socket = self._root / f"run/sparkd/models/{MODEL}/api.sock"
        self.direct = Way(name="direct", title="direct", target={"unix": str(self.socket)})
        self.sparkd = Way(
            name="sparkd",
            title="through sparkd",
            target={"port": PORT},
            cgroup=self._cgroups / "sparkd.slice/sparkd.service",
        )
        self.ways: tuple[Way, ...] = (self.direct, self.sparkd)
        self._generator = subprocess.Popen(
            ["nsenter", f"--net=/proc/{leader}/ns/net", sys.executable, str(LOAD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        os.sched_setaffinity(self._generator.pid, self._load_cores)

    def close(self) -> None:
        """End the load generator."""
        assert self._generator.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._generator.stdin.close()
        self._generator.wait()

    # -- workloads ---------------------------------------------------------------------------

    def ask_generator(self, job: Json) -> Json:
        """Run one job. Raises BenchError if any of its answers was wrong."""
        assert self._generator.stdin is not None
        assert self._generator.stdout is not None
        self._generator.stdin.write(json.dumps(job) + "\n")
        self._generator.stdin.flush()
        line = self._generator.stdout.readline()
        if not line:
            raise BenchError(f"the load generator died during {job['kind']}")
        result: Json = json.loads(line)
        if result["wrong"]:
            raise BenchError(f"{result['wrong']} wrong answers, the first: {result['wrong_first']}")
        return result

    def chat_request(self, model: str, **fields: Any) -> str:
        """A whole HTTP request that asks a model to say what it heard."""
        body = json.dumps(chat_body(model, "hello", **fields))
        head = (
            "POST /v1/chat/completions HTTP/1.1",
            "host: 127.0.0.1:8009",
            f"authorization: Bearer {self.key}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        )
        return "\r\n".join((*head, "", body))

    def health_request(self) -> str:
        return "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:8009\r\n\r\n"

    # -- processes ---------------------------------------------------------------------------

    def scope(self, model: str) -> Path:
        """The control group of a running model."""
        return self._models / f"sparkd-model-{model}.scope"

    def pin(self, model: str) -> None:
        """Give what stands between a core of its own, and put the engine where the generator is."""
        for way in self.ways:
            for pid in way.pids():
                _pin(pid, self._gateway_cores)
        for pid in _pids(self.scope(model)):
            _pin(pid, self._load_cores)

    def last_used_s(self, model: str) -> float:
        """When a model was last used, on the monotonic clock, which is the host's too."""
        return (self._root / f"run/sparkd/locks/{model}.activity").stat().st_mtime


def tree(pid: int) -> list[int]:
    """A process and all that it started, as far as they live."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += tree(int(child))
    return found


def _ticks(pid: int) -> int:
    """CPU time of a process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _pids(cgroup: Path) -> list[int]:
    return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]


def _pin(pid: int, cores: set[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def _cpu_s(cgroup: Path) -> float:
    return _number((cgroup / "cpu.stat").read_text(), "usage_usec") / 1e6


def _status_bytes(pid: int, name: str) -> int:
    return _number(Path(f"/proc/{pid}/status").read_text(), name) * 1024


def _number(text: str, name: str) -> int:
    """The number of the line that begins with that name."""
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if words and words[0] == name:
            return int(words[1])
    raise BenchError(f"the kernel does not say {name}")
