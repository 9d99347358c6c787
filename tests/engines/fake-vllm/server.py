#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for `vllm serve`: the process from its first log line to its exit code.

Owns the command line, the listening socket, the pretended loading with its log lines, memory
and workers, and the signals. What is answered is engine.py's; every way to misbehave is a
setting of behaviour.py.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from behaviour import (
    SWITCH_FILE,
    Behaviour,
    BehaviourError,
    Switches,
    from_arguments,
    from_environment,
    overridden,
)
from engine import Engine, exit_now
from http1 import Connection

BACKLOG = 2048
PAGE = b"\1" * 4096
SHARDS = 4
# How soon a load goes on that the switch file has held.
RELEASE_LOOK_S = 0.02
BAD_USAGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    models: tuple[str, ...]
    max_model_len: int
    uds: Path | None
    host: str
    port: int
    switch_file: Path
    middleware: tuple[str, ...]


def log(level: str, place: str, text: str) -> None:
    now = time.strftime("%m-%d %H:%M:%S")
    print(f"(APIServer pid={os.getpid()}) {level} {now} [{place}] {text}", flush=True)


def parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--uds", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--switch-file", type=Path, default=SWITCH_FILE)
    parser.add_argument("--middleware", action="append", default=[])
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--lora-modules", nargs="+", default=[], metavar="NAME=PATH")
    # Everything else that vLLM would understand is accepted and has no effect.
    known, _ = parser.parse_known_args(arguments)
    return Options(
        models=(
            *(known.served_model_name or [known.model]),
            *(adapter_of(parser, known, module) for module in known.lora_modules),
        ),
        max_model_len=known.max_model_len,
        uds=known.uds,
        host=known.host,
        port=known.port,
        switch_file=known.switch_file,
        middleware=tuple(known.middleware),
    )


def adapter_of(parser: argparse.ArgumentParser, known: argparse.Namespace, module: str) -> str:
    """The name of an adapter whose weights are there; vLLM reads its configuration at the start."""
    name, _, path = module.partition("=")
    if not known.enable_lora:
        parser.error("--lora-modules needs --enable-lora")
    if not Path(path, "adapter_config.json").is_file():
        parser.error(f"argument --lora-modules: {path} has no adapter_config.json")
    return name


def bound_socket(options: Options) -> socket.socket:
    if options.uds is None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        return listener
    # A socket that an earlier run left behind is not removed: the real vLLM fails on it too.
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(options.uds))
    return listener


def start_workers(count: int) -> None:
    """Children that only exist. They look for their parent, so that no test leaves any behind."""
    parent = os.getpid()
    for _ in range(count):
        if os.fork() == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            while os.getppid() == parent:
                time.sleep(0.5)
            os._exit(0)


class Process:
    """One run of the stand-in: bind, load, serve, stop."""

    def __init__(self, options: Options, behaviour: Behaviour, switches: Switches) -> None:
        self._options = options
        self._behaviour = behaviour
        self._switches = switches
        self._memory = bytearray()
        self._connections: set[Connection] = set()
        self._stop = asyncio.Event()
        self.engine = Engine(
            models=options.models,
            max_model_len=options.max_model_len,
            switches=switches,
            middleware=options.middleware,
        )

    async def run(self) -> None:
        """Returns after a stop signal. SIGTERM counts only once loaded, as with the real one."""
        self._obey(signal.SIGINT)
        listener = bound_socket(self._options)
        server = await self._listen(listener) if self._behaviour.listen == "early" else None
        stopped = asyncio.create_task(self._stop.wait())
        loading = asyncio.create_task(self._load())
        await asyncio.wait({stopped, loading}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            server = server or await self._listen(listener)
            self.engine.loaded = True
            self._obey(signal.SIGTERM)
            self._announce()
            await stopped
        loading.cancel()
        log("INFO", "launcher.py:1", "Shutting down")
        if server is not None:
            server.close()
        await asyncio.sleep(self._behaviour.stop_seconds)

    def _obey(self, number: signal.Signals) -> None:
        if number.name.removeprefix("SIG") in self._behaviour.ignore_signals.split(","):
            signal.signal(number, signal.SIG_IGN)
        else:
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    async def _listen(self, listener: socket.socket) -> asyncio.Server:
        def connection() -> Connection:
            return Connection(self.engine.handle, self._connections)

        loop = asyncio.get_running_loop()
        if self._options.uds is None:
            return await loop.create_server(connection, sock=listener, backlog=BACKLOG)
        return await loop.create_unix_server(connection, sock=listener, backlog=BACKLOG)

    async def _load(self) -> None:
        behaviour = self._behaviour
        log("INFO", "core.py:1", "Initializing a V1 LLM engine (v0.0.0+fake)")
        if behaviour.crash_at_start:
            await asyncio.sleep(behaviour.crash_after_seconds)
            exit_now(behaviour.exit_code, behaviour.crash_log)
        log("INFO", "model_runner.py:1", f"Starting to load model {self._options.models[0]}...")
        for shard in range(SHARDS + 1):
            share = shard / SHARDS
            self._grow_to(int(behaviour.memory_bytes * share))
            print(
                f"Loading safetensors checkpoint shards: {share:4.0%} Completed | {shard}/{SHARDS}",
                flush=True,
            )
            await asyncio.sleep(behaviour.load_seconds / (SHARDS + 1))
        while self._switches.current().load_hang:
            await asyncio.sleep(RELEASE_LOOK_S)
        taken = f"Loading weights took {behaviour.load_seconds:.2f} seconds"
        log("INFO", "default_loader.py:1", taken)

    def _grow_to(self, size_bytes: int) -> None:
        """Written to, page by page: memory that is only asked for is not there yet."""
        self._memory += PAGE * max(0, (size_bytes - len(self._memory)) // len(PAGE))

    def _announce(self) -> None:
        place = self._options.uds or f"{self._options.host}:{self._options.port}"
        log("INFO", "entry.py:1", f"Starting vLLM server on {place}")
        print("INFO:     Application startup complete.", flush=True)


def main(arguments: list[str]) -> int:
    try:
        from_command_line, rest = from_arguments(arguments)
        base = overridden(Behaviour(), from_environment(os.environ))
        base = overridden(base, from_command_line)
        options = parse(rest)
        switches = Switches(base, options.switch_file)
        behaviour = switches.current()
    except BehaviourError as wrong:
        print(f"vllm: {wrong}", file=sys.stderr)
        return BAD_USAGE
    # Also before anything is loaded: with these the default action would end the process.
    for name in filter(None, behaviour.ignore_signals.split(",")):
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)
    start_workers(behaviour.workers)
    asyncio.run(Process(options, behaviour, switches).run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
