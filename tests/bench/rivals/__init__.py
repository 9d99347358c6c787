# SPDX-License-Identifier: Apache-2.0
"""Other gateways in front of the same engine, each set up as its users do, for a comparison.

Each is started on the machine but in the host's network, and ends with the run. They ask for no
key, wake nothing and lend nothing: what they are spared is in sparkd's figures.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.bench.subject import BenchError, Subject, Way, tree
from tests.bench.workload import MODEL
from tests.clients import installed
from tests.clients.installed import cache
from tests.system.hosts import chat_body, client

NODE = Path(__file__).with_name("node.js")
_NGINX_PORT, _FRONT_PORT, _VALIDATOR_PORT, _WAKER_PORT, _LITELLM_PORT = range(8101, 8106)
_START_TIMEOUT_S = 180.0
_NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {directory}/{name}.pid;
error_log {directory}/{name}.error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {directory}/{name}.body;
  proxy_temp_path {directory}/{name}.proxy;
  fastcgi_temp_path {directory}/{name}.fastcgi;
  uwsgi_temp_path {directory}/{name}.uwsgi;
  scgi_temp_path {directory}/{name}.scgi;
  client_max_body_size 64m;
  keepalive_requests 1000000;
  upstream next {{ server {server}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://next;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 900s;
    }}
  }}
}}
"""
_LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{port}/v1
      api_key: none
litellm_settings: {{telemetry: false}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Its name, where it listens, and the commands of all its processes."""

    name: str
    title: str
    port: int
    commands: Callable[[Path, Path], Sequence[Sequence[str | Path]]]
    """From a directory of its own and the engine's socket."""
    slow: bool = False
    """It is left out where it would take minutes."""


def _nginx(directory: Path, name: str, port: int, server: str) -> Sequence[str | Path]:
    config = directory / f"{name}.conf"
    config.write_text(_NGINX.format(directory=directory, name=name, port=port, server=server))
    return (_nginx_program(), "-c", config, "-e", directory / f"{name}.error.log")


def _plain_nginx(directory: Path, socket: Path) -> Sequence[Sequence[str | Path]]:
    return [_nginx(directory, "nginx", _NGINX_PORT, f"unix:{socket}")]


def _nginx_and_node(directory: Path, socket: Path) -> Sequence[Sequence[str | Path]]:
    node = (_node_program(), NODE)
    return [
        (*node, "waker", str(_WAKER_PORT)),
        (*node, "validator", str(_VALIDATOR_PORT), str(_WAKER_PORT), socket),
        _nginx(directory, "front", _FRONT_PORT, f"127.0.0.1:{_VALIDATOR_PORT}"),
    ]


def _litellm(directory: Path, socket: Path) -> Sequence[Sequence[str | Path]]:
    del socket  # It knows no unix sockets: the plain nginx is between it and the engine.
    config = directory / "litellm.yaml"
    config.write_text(_LITELLM.format(model=MODEL, port=_NGINX_PORT))
    python = installed.python("litellm-proxy")
    words = ("--config", config, "--host", "127.0.0.1", "--port", str(_LITELLM_PORT))
    # Its own script names the interpreter where it was made, before the cache moved it.
    return [(python, "-c", "from litellm import run_server; run_server()", *words)]


RIVALS = (
    Rival(name="nginx", title="nginx", port=_NGINX_PORT, commands=_plain_nginx),
    Rival(name="node", title="nginx + Node", port=_FRONT_PORT, commands=_nginx_and_node),
    Rival(name="litellm", title="LiteLLM", port=_LITELLM_PORT, commands=_litellm, slow=True),
)


@contextlib.contextmanager
def started(subject: Subject, directory: Path) -> Iterator[tuple[Way, ...]]:
    """All of them, ready to be asked for the model that is measured, which must be loaded."""
    with contextlib.ExitStack() as running:
        yield tuple(running.enter_context(_started(subject, rival, directory)) for rival in RIVALS)


@contextlib.contextmanager
def _started(subject: Subject, rival: Rival, directory: Path) -> Iterator[Way]:
    network = ("nsenter", f"--net=/proc/{subject.host.pid}/ns/net")
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
    processes = []
    with (directory / f"{rival.name}.log").open("wb") as log:
        try:
            for command in rival.commands(directory, subject.socket):
                processes.append(
                    subprocess.Popen(
                        [*network, *command],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=environment,
                        start_new_session=True,
                    )
                )
            way = Way(
                name=rival.name,
                title=rival.title,
                target={"port": rival.port},
                roots=tuple(process.pid for process in processes),
                slow=rival.slow,
            )
            _wait_until_it_answers(subject, rival, processes, Path(log.name))
            yield way
        finally:
            for process in reversed(processes):
                for pid in tree(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()


def _wait_until_it_answers(
    subject: Subject, rival: Rival, processes: list[subprocess.Popen[bytes]], log: Path
) -> None:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while not subject.host.loop.run(_answers(rival.port)):
        ended = [process.args for process in processes if process.poll() is not None]
        if ended or time.monotonic() > give_up_at:
            said = log.read_text(errors="replace")[-800:]
            raise BenchError(f"{rival.title} does not answer, its last words: {said}")
        time.sleep(0.5)


async def _answers(port: int) -> bool:
    try:
        async with client(None, timeout_s=10) as http:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            return (await http.post(url, json=chat_body(MODEL, "hello"))).status_code == 200
    except httpx.HTTPError:
        return False


def _node_program() -> str:
    found = shutil.which("node")
    if found is None:
        raise BenchError("node is not installed: make tools installs it")
    return found


def _nginx_program() -> Path:
    """Debian's nginx, unpacked into the cache: installed it would serve port 80 of this machine."""

    def make(place: Path) -> None:
        place.mkdir()
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "download", "-qq", "nginx"], cwd=place, check=True)
        (archive,) = place.glob("nginx_*.deb")
        subprocess.run(["dpkg-deb", "--extract", archive, place], check=True)

    return cache.entry("bench/nginx", make) / "usr/sbin/nginx"
