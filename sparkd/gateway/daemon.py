# SPDX-License-Identifier: Apache-2.0
"""The daemon: takes the socket systemd hands over, serves, and exits when it is idle.

Owns no truth and runs no container: it may be killed at any instruction and the next one goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from sparkd._version import __version__
from sparkd.adapters.background_tasks import BackgroundTasks
from sparkd.adapters.files.config_files import config_paths, load_from
from sparkd.adapters.files.key_files import KeyFiles
from sparkd.adapters.journal import writer
from sparkd.adapters.journal.writer import fields
from sparkd.adapters.proc.cgroups import cgroup_pids
from sparkd.adapters.proc.processes import ProcessWatch
from sparkd.adapters.systemd.notify import Notifier, inherited_sockets
from sparkd.core.errors import HostError, SparkdError
from sparkd.core.model import Config
from sparkd.core.names import SCOPE_PATTERN
from sparkd.core.telemetry.events import EventKind
from sparkd.gateway.application import create_server
from sparkd.gateway.wiring import wire
from sparkd.observe import metrics
from sparkd.runtime import Runtime, build

log = logging.getLogger(__name__)

_SOCKET_NAME = "http"
_ACCEPT_SILENCE_S = 10.0
_LAST_WORDS_S = 1.0
"""For refusals to reach the clients that waited for a model until the daemon had to stop."""
_HANG_LOOK_MAX_S = 30.0
_RESIDENT_RETRY_S = 5.0
"""After the user manager could not be asked whether models run."""
EX_USAGE = 64
EX_UNAVAILABLE = 69


class Daemon:
    """startup, serve, shutdown; each once."""

    def __init__(self, listening: Sequence[socket.socket], notifier: Notifier) -> None:
        self._listening = listening
        self._notifier = notifier
        self._stop = asyncio.Event()

    async def run(self) -> None:
        await self.startup()
        try:
            await self.serve()
        finally:
            await self.shutdown()

    async def startup(self) -> None:
        runtime = build()
        config = load_from(os.environ, runtime.layout)
        parts = wire(runtime, config, KeyFiles(config_paths(os.environ), os.environ))
        self._context, self._housekeeper, gc_tuning = parts
        # Problems of the key files are in the journal from the start.
        self._context.keys.current(time.monotonic())
        metrics.restore(runtime.layout, self._context.traffic)
        _log_problems(config)
        self._server = create_server(self._context)
        self._handle_signals()
        await self._server.listen(self._listening)
        gc_tuning.leave_out_all_there_is()
        self._housekeeper.begin()
        self._notifier.ready(f"serving {len(config.models)} models")
        log.info(
            "sparkd %s serves %d models",
            __version__,
            len(config.models),
            extra=fields(EventKind.DAEMON_READY, models=len(config.models)),
        )

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        # As systemd(1) has them for its own daemons.
        for offset, level in ((22, logging.DEBUG), (23, logging.INFO)):
            loop.add_signal_handler(signal.SIGRTMIN + offset, writer.set_level, level)
        loop.set_exception_handler(_Complaints())

    async def serve(self) -> None:
        """Serve until a signal, or until the daemon is idle."""
        tasks = BackgroundTasks()
        tasks.keep("watchdog", self._keep_watchdog_fed)
        tasks.keep("idle exit", self._stop_when_idle)
        tasks.keep("hang detection", self._look_for_hangs)
        try:
            await self._stop.wait()
        finally:
            await tasks.close()

    async def shutdown(self) -> None:
        """Accept no connection, let open requests end within `drain_timeout`, and stop."""
        self._notifier.stopping(f"{self._context.open_requests.count} requests open")
        log.info("sparkd stops", extra=fields(EventKind.DAEMON_STOPPING))
        self._server.stop_accepting()
        self._context.leaving.set()
        server = self._server
        if not await server.drained(
            self._context.open_requests, self._context.config.settings.drain_timeout_s
        ):
            # A response that has begun is cut; a waiting client gets an error with a retry hint.
            await self._context.runtime.scheduler.close()
            await server.drained(self._context.open_requests, _LAST_WORDS_S)
        server.abort()
        await self._housekeeper.close()
        await self._context.runtime.exit_watch.close()
        await self._context.runtime.close()
        await self._context.proxy.close()
        metrics.keep(self._context.runtime.layout, self._context.traffic)

    async def _keep_watchdog_fed(self) -> None:
        if self._notifier.watchdog_s is None:
            return
        while True:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_s / 3)

    async def _look_for_hangs(self) -> None:
        while True:
            await self._context.open_requests.some()
            hang_timeout_s = self._context.config.settings.hang_timeout_s
            await asyncio.sleep(min(_HANG_LOOK_MAX_S, hang_timeout_s / 4))
            await self._housekeeper.look_for_hangs()

    async def _stop_when_idle(self) -> None:
        """Set the stop event after `idle_exit` without a request and without a model."""
        requests = self._context.open_requests
        while True:
            await requests.none()
            runtime_dir = self._context.runtime.layout.runtime_dir
            if not os.access(runtime_dir, os.W_OK):
                # Only a start of the unit brings it back; the next connection is one.
                log.error("%s was removed: exiting, so that systemd creates it again", runtime_dir)
                self._stop.set()
                return
            try:
                async with asyncio.timeout(self._context.config.settings.idle_exit_s):
                    await requests.some()
            except TimeoutError:
                if not await _wait_for_resident_models(self._context.runtime):
                    log.info("idle and no model loaded: exiting")
                    self._stop.set()
                    return

    def _reload(self) -> None:
        """Read the configuration again; one with problems is refused and the old one stays."""
        self._notifier.reloading(time.monotonic_ns() // 1000)
        config = load_from(os.environ, self._context.runtime.layout)
        if config.problems:
            _log_problems(config)
            log.error("the new configuration is refused, the old one stays: sparkctl check")
        else:
            self._context.config = config
            self._housekeeper.reloaded()
        self._notifier.ready(f"serving {len(self._context.config.models)} models")


class _Complaints:
    """The loop's exception handler: exhausted descriptors get one line now and then."""

    def __init__(self) -> None:
        self._silent_until_s = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() >= self._silent_until_s:
            self._silent_until_s = loop.time() + _ACCEPT_SILENCE_S
            log.error(
                "connections wait, as no descriptors are left: %s "
                "(LimitNOFILE= of sparkd.service; who connects: ss -tnp 'sport = :8009')",
                error.strerror,
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of /usr/libexec/sparkd/sparkd and `python -m sparkd`; the exit status."""
    arguments = _parser().parse_args(argv)
    writer.configure(level=logging.DEBUG if arguments.verbose else logging.INFO)
    try:
        listening = _sockets(arguments.listen)
        # Not uvloop: under load its version 0.21 now and then took the descriptor of a new bus
        # connection for a client's (as in MagicStack/uvloop#646 and #653), and starts broke off.
        asyncio.run(Daemon(listening, Notifier()).run())
    except SparkdError as error:
        log.error("%s", error)
        return EX_UNAVAILABLE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparkd", description="Home inference server; systemd starts it by sparkd.socket."
    )
    parser.add_argument("--version", action="version", version=f"sparkd {__version__}")
    parser.add_argument("--listen", metavar="HOST:PORT", help="listen here (for development)")
    parser.add_argument("--verbose", action="store_true", help="log debug messages too")
    return parser


def _sockets(listen: str | None) -> list[socket.socket]:
    if listen is not None:
        host, _, port = listen.rpartition(":")
        if not port.isdigit():
            raise HostError(f"--listen {listen!r} is not HOST:PORT", hint="127.0.0.1:8009")
        return [socket.create_server((host.strip("[]") or "127.0.0.1", int(port)))]
    found = inherited_sockets().get(_SOCKET_NAME, [])
    if not found:
        raise HostError(
            f"systemd passed no socket named {_SOCKET_NAME!r}",
            hint="sudo systemctl start sparkd.socket, or give --listen 127.0.0.1:8009",
        )
    return found


def _log_problems(config: Config) -> None:
    for problem in config.problems:
        log.error("configuration: %s", problem)


async def _wait_for_resident_models(runtime: Runtime) -> bool:
    """False when no model runs; else wait until those that run now have ended, then True."""
    try:
        units = await runtime.systemd.units([SCOPE_PATTERN])
        groups = [await runtime.systemd.control_group(unit.name) for unit in units if unit.active]
    except HostError as error:
        log.warning("cannot tell whether models run: %s", error)
        await asyncio.sleep(_RESIDENT_RETRY_S)
        return True
    if not groups:
        return False
    for pid in (pid for group in groups if group for pid in cgroup_pids(group)):
        with contextlib.suppress(ProcessLookupError):
            watch = ProcessWatch(pid)
            try:
                await watch.ended()
            finally:
                watch.close()
    return True


if __name__ == "__main__":
    sys.exit(main())
