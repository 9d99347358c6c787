# SPDX-License-Identifier: Apache-2.0
"""A booted test host for the tests: commands and HTTP requests inside it, and readings of it."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from sparkd.adapters.proc.processes import LockTable

from .netns import NetnsLoop

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "tests/host/host"
SETTINGS = "min_residency: 0s\nmax_wait: 5s\nmemory_reserve: 64MiB\nmemory_floor: 32MiB\n"
"""What the tests configure unless they say otherwise: no wait that is only there for people."""
BASE_URL = "http://127.0.0.1:8009"

sys.path.insert(0, str(HOST.parent))
from nspawn_host.guest import Guest  # noqa: E402


class Host:
    """One host. Commands and requests run inside it; `stop_models` brings it back to rest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.at_rest = False
        """Whoever has it so says so; whatever is done on the host ends it."""
        self._loop: NetnsLoop | None = None
        self._loop_pid = 0

    def run(
        self,
        *command: str,
        user: str | None = None,
        check: bool = True,
        input: str | None = None,  # noqa: A002 (subprocess has the same name for it)
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; its output as text. This is `host run` without a Python of its
        own, whose start takes ten times as long as most commands."""
        self.at_rest = False
        guest, account = Guest(self.name), user or "root"
        return subprocess.run(
            guest.enter_argv(account, command),
            check=check,
            env=guest.environment(account),
            input=input if input is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def sh(self, script: str, *, user: str | None = None, check: bool = True) -> str:
        """Run a shell script inside; its standard output."""
        return self.run("bash", "-c", script, user=user, check=check).stdout.strip()

    @property
    def key(self) -> str:
        """A key that the gateway accepts."""
        return self.run("tail", "-n1", "/etc/sparkd/api-key").stdout.strip()

    @property
    def pid(self) -> int:
        """Of the host's systemd, as this machine sees it."""
        pid = Guest(self.name).leader_pid()
        assert pid is not None, f"host {self.name} does not run"
        return pid

    @property
    def root(self) -> Path:
        """The host's file tree, mounts included, as this machine sees it."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def loop(self) -> NetnsLoop:
        """A loop in the host's network; a new one after a reboot."""
        self.at_rest = False
        pid = self.pid
        if self._loop is None or self._loop_pid != pid:
            self.close()
            self._loop, self._loop_pid = NetnsLoop(pid), pid
        return self._loop

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def reboot(self) -> None:
        self.close()
        subprocess.run([str(HOST), "reboot", "--name", self.name], check=True)

    def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = "",
        timeout_s: float = 180.0,
        **kwargs: Any,
    ) -> httpx.Response:
        """One request on a connection of its own; `key=None` sends none, "" the right one."""

        async def send() -> httpx.Response:
            async with client(self.key_or(key), timeout_s=timeout_s) as http:
                return await http.request(method, path, **kwargs)

        return self.loop.run(send(), timeout_s + 10)

    def chat(self, model: str, text: str = "hello", **fields: Any) -> httpx.Response:
        """Ask a model once, not streaming; `fields` go into the body."""
        timeout_s = fields.pop("timeout_s", 180.0)
        return self.request(
            "POST",
            "/v1/chat/completions",
            json=chat_body(model, text, **fields),
            timeout_s=timeout_s,
        )

    def key_or(self, key: str | None) -> str | None:
        return self.key if key == "" else key

    def user_unit_states(self, pattern: str = "sparkd*") -> dict[str, str]:
        """The active user units of sparkd that match, by name; podman.service counts too."""
        return self._units(["systemctl", "--user"], pattern, user="sparkd")

    def system_unit_states(self) -> dict[str, str]:
        return self._units(["systemctl"], "sparkd*", user=None)

    def _units(self, systemctl: list[str], pattern: str, user: str | None) -> dict[str, str]:
        listed = self.run(
            *systemctl, "list-units", "--all", "--output=json", pattern, "podman.s*", user=user
        )
        return {unit["unit"]: unit["active"] for unit in json.loads(listed.stdout)}

    def containers(self) -> list[dict[str, Any]]:
        """Every container of the sparkd user."""
        out = self.run("podman", "ps", "--all", "--format=json", user="sparkd").stdout
        return json.loads(out or "[]")

    def journal(self, *matches: str, since: str | None = None) -> list[dict[str, Any]]:
        """Journal entries, as objects, oldest first."""
        self._written_down()
        # Not --after-cursor: unless the entry there is a match itself, journalctl of systemd 252
        # leaves out the first match after it.
        begin = [f"--cursor={since}"] if since else []
        out = self.run("journalctl", "--output=json", "--all", *begin, *matches).stdout
        entries = [json.loads(line) for line in out.splitlines()]
        return [entry for entry in entries if entry["__CURSOR"] != since]

    def entries(self, count: int, *matches: str, since: str) -> list[dict[str, Any]]:
        """The same, once there are so many: what a line tells of may be seen before it."""
        self.wait_until(
            lambda: len(self.journal(*matches, since=since)) >= count, f"{count} of {matches}"
        )
        return self.journal(*matches, since=since)

    def cursor(self) -> str:
        """Where the journal ends now, for `journal(since=...)`."""
        self._written_down()
        out = self.run("journalctl", "--lines=0", "--show-cursor", "--quiet").stdout
        return out.split("cursor: ", 1)[1].strip()

    def _written_down(self) -> None:
        """Return when the journal has what was sent to it before: journald takes its time."""
        self.run("journalctl", "--sync")

    def engine_state(self, model: str) -> dict[str, Any]:
        """What the fake engine of a running model counted and last saw."""
        socket = f"/run/sparkd/models/{model}/api.sock"
        out = self.run("curl", "-s", "--unix-socket", socket, "http://model/fake/state").stdout
        return json.loads(out)

    def locked(self, path: str) -> bool:
        """Whether somebody holds a flock on the file; no lock is taken to see it.

        The kernel tells its locks in pieces, and one that changes its place meanwhile is missed.
        """
        return any(LockTable.read().held(self.root / path.lstrip("/")) for _ in range(3))

    @contextmanager
    def lent(self, model: str) -> Iterator[None]:
        """The model in use, as by a request that does not end: nothing stops it meanwhile."""
        guest, lock = Guest(self.name), f"/run/sparkd/locks/{model}.activity"
        hold = ["flock", "--no-fork", "--shared", lock, "sh", "-c", "echo held; exec cat"]
        with subprocess.Popen(
            guest.enter_argv("sparkd", hold),
            env=guest.environment("sparkd"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            yield

    def gpu_holders(self) -> list[str | None]:
        """The models that hold gpu.lock, None for another program: whoever tries whether he gets
        the lock has it for a moment, and somebody else does not."""
        holders = self.request("GET", "/status").json()["gpu"]["holders"]
        return [holder["model"] for holder in holders]

    def wait_for_requests(self) -> None:
        """Return when the gateway has let go of every request, and counted and noted it: it does
        so after the client has the last byte of its answer."""
        in_flight = "\nsparkd_requests_in_flight{"
        self.wait_until(
            lambda: in_flight not in self.request("GET", "/metrics").text, "no request is open"
        )

    def stop_models(self) -> None:
        """Stop whatever runs, remove dead containers, forget pins and failures.

        Comebacks first: the end of an exclusive model would start whoever had to leave for it.
        """
        self.run("systemctl", "stop", "sparkd.service")
        self.sh(
            "rm -rf /run/sparkd/comebacks/*; systemctl --user stop sparkd-comeback.service "
            "'sparkd-idle@*.timer' 'sparkd-load@*.timer'; "
            "systemctl --user stop 'sparkd-model-*.scope' 'sparkd-idle@*.service' "
            # A pass that ran may have set its timer anew.
            "'sparkd-load@*.service'; systemctl --user stop 'sparkd-idle@*.timer' "
            "'sparkd-load@*.timer'; podman rm --all --force >/dev/null; "
            "cd /run/sparkd && rm -rf models/* failures/* asleep/* pins/*",
            user="sparkd",
            check=False,
        )

    def wait_until(
        self, condition: Callable[[], bool], what: str, timeout_s: float = 90.0
    ) -> float:
        """Wait until a reading of the host is as wanted; how long that took, in seconds."""
        began_s = time.monotonic()
        while not condition():
            waited_s = time.monotonic() - began_s
            assert waited_s < timeout_s, f"not within {timeout_s:g} s: {what}"
            time.sleep(0.05)
        return time.monotonic() - began_s

    def configure(self, text: str) -> None:
        """Make this the whole of sparkd.yaml; a daemon that runs with another one is stopped."""
        path = "/etc/sparkd/sparkd.yaml"
        # A test of upgrades leaves none.
        if self.run("cat", path, check=False).stdout != text:
            self.run("tee", path, input=text)
            self.run("systemctl", "stop", "sparkd.service")

    @contextmanager
    def file(self, path: str, text: str) -> Iterator[None]:
        """A file with this text for a while; what was there before comes back."""
        before = self.run("cat", path, check=False)
        self.run("tee", path, input=text)
        try:
            yield
        finally:
            if before.returncode == 0:
                self.run("tee", path, input=before.stdout)
            else:
                self.run("rm", path)

    @contextmanager
    def held_load(self, model: str) -> Iterator[None]:
        """A start of the fake engine stays in the middle of its load for as long as this lasts."""
        directory = f"/var/lib/sparkd/cache/{model}"
        self.run("mkdir", "--parents", "--mode=0700", directory, user="sparkd")
        with self.file(f"{directory}/fake.json", '{"load_hang": true}'):
            yield


def client(key: str | None, *, timeout_s: float = 180.0) -> httpx.AsyncClient:
    """A client of the gateway, to be used on a host's loop."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    # verify=False: setting TLS up, which plain HTTP never uses, would block the loop for 0.1 s.
    return httpx.AsyncClient(base_url=BASE_URL, headers=headers, timeout=timeout_s, verify=False)


def chat_body(model: str, text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def answer_of(response: httpx.Response) -> str:
    """The text of a chat answer; fails with the whole answer when there is none."""
    assert response.status_code == 200, response.text
    text = response.json()["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


class Stream:
    """A streaming chat request in progress on a host's loop; collects what arrives.

    One that is `held` has its first token and then nothing until it is told to `go_on`.
    """

    def __init__(
        self,
        host: Host,
        model: str,
        *,
        tokens: int,
        pace_ms: float,
        key: str | None = None,
        held: bool = False,
        keep_alive: str | None = None,
        **fake: Any,
    ) -> None:
        self._host = host
        self._model = model
        self.chunks: list[bytes] = []
        self.error: Exception | None = None
        self.status = 0
        self._held_as = secrets.token_hex(4) if held else ""
        settings = {"tokens": tokens, "pace_ms": pace_ms, "held_as": self._held_as, **fake}
        body = chat_body(model, stream=True, fake=settings)
        self._done = threading.Event()
        self._first = threading.Event()
        self._task: asyncio.Task[None] | None = None
        key = key or host.key
        headers = {"x-sparkd-keep-alive": keep_alive} if keep_alive else {}

        async def start() -> None:
            self._task = asyncio.get_running_loop().create_task(self._read(key, body, headers))

        host.loop.run(start())

    async def _read(self, key: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        try:
            async with (
                client(key, timeout_s=600) as http,
                http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response,
            ):
                self.status = response.status_code
                async for chunk in response.aiter_raw():
                    self.chunks.append(chunk)
                    if b'"content"' in chunk:
                        self._first.set()
        except httpx.HTTPError as error:
            self.error = error
        finally:
            self._first.set()
            self._done.set()

    @property
    def text(self) -> str:
        return b"".join(self.chunks).decode()

    @property
    def begun(self) -> bool:
        """Whether it has a first token, or has ended without one."""
        return self._first.is_set()

    @property
    def over(self) -> bool:
        return self._done.is_set()

    @property
    def whole(self) -> bool:
        """Whether the engine's last event arrived and nothing broke."""
        return self.error is None and self.text.rstrip().endswith("data: [DONE]")

    def wait_first(self, timeout_s: float = 180.0) -> None:
        assert self._first.wait(timeout_s), "no first token"
        assert self.chunks, f"no answer: {self.error!r}"

    def go_on(self) -> None:
        socket = f"/run/sparkd/models/{self._model}/api.sock"
        url = f"http://model/fake/release/{self._held_as}"
        self._host.run("curl", "--silent", "--fail", "--unix-socket", socket, url)

    def wait(self, timeout_s: float = 180.0) -> None:
        assert self._done.wait(timeout_s), "the stream did not end"

    def leave(self) -> None:
        """Disconnect in the middle, as a client that is closed does."""

        async def cancel() -> None:
            if self._task is not None:
                self._task.cancel()

        self._host.loop.run(cancel())


def held_stream(host: Host, model: str, **more: Any) -> Stream:
    """A stream of three tokens that has its first one, and is open until it is told to `go_on`."""
    stream = Stream(host, model, tokens=3, pace_ms=0, held=True, **more)
    stream.wait_first()
    return stream
