# SPDX-License-Identifier: Apache-2.0
"""The host on which it all happens, and the processes that are started for it.

Every process gets a session of its own, so that Ctrl-C reaches this program alone, which then ends
them in order. What is shown and why is not decided here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import queue
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .screen import Screen

HOST = Path(__file__).resolve().parent.parent / "host"
REPOSITORY = HOST.parents[2]
_TICK_S = 0.5
_END_GRACE_S = 60.0
"""A build that is broken off may have a host of its own to take down."""


class DemoError(Exception):
    """What was to be seen was not seen."""


class Stage:
    """One host by name, and what is run on it."""

    def __init__(self, name: str, screen: Screen) -> None:
        self.name = name
        self.screen = screen

    def build(self, what: str, argv: Sequence[str]) -> None:
        """Run a long step of the machine itself; its lines are shown as they come."""
        began_s = time.monotonic()
        with _started(argv, stderr=subprocess.STDOUT) as process:
            for piece in _pieces(process):
                if piece is None:
                    self.screen.waiting(what, began_s)
                else:
                    self.screen.output(piece)
            self.screen.done_waiting()
        if process.returncode:
            raise DemoError(f"{what} ended with exit status {process.returncode}")

    def take_down(self) -> None:
        """End the host, if there is one, and delete it. Raises DemoError.

        Its session is its own, so that another Ctrl-C does not break this off.
        """
        done = subprocess.run(
            [str(HOST), "down", "--name", self.name],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"the host '{self.name}' does not end: {done.stderr.strip()}")

    def show(self, command: str, *, status: int = 0) -> str:
        """Show a command and run it on the host, on a terminal as a person would; its output.

        Raises DemoError if it ends with another exit status.
        """
        self.screen.command(command)
        leader, follower = pty.openpty()
        size = struct.pack("HHHH", 50, self.screen.width, 0, 0)
        fcntl.ioctl(follower, termios.TIOCSWINSZ, size)
        text = ""
        with _started(self._inside(command), stdout=follower, stderr=follower) as process:
            os.close(follower)
            for piece in _read_terminal(leader):
                text += piece
                self.screen.output(piece)
        self.screen.done_waiting()
        if process.returncode != status:
            raise DemoError(f"it ended with exit status {process.returncode} instead of {status}")
        return text

    def quietly(self, command: str) -> str:
        """Run a command on the host without showing it; its output."""
        done = subprocess.run(
            self._inside(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"'{command}' ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def wait_until(self, condition: str, what: str, limit_s: float) -> None:
        """Wait on the host until a command succeeds. Raises DemoError when the time is up."""
        began_s = time.monotonic()
        loop = f"timeout --foreground {limit_s:.0f} bash -c 'until {condition}; do sleep 0.1; done'"
        with _started(self._inside(loop)) as process:
            for piece in _pieces(process):
                if piece is None:
                    self.screen.waiting(what, began_s)
            self.screen.done_waiting()
        if process.returncode:
            raise DemoError(f"not within {limit_s:.0f} s: {what}")

    def stream(self, command: str, on_silence: Callable[[], None], limit_s: float) -> Iterator[str]:
        """Run a command that is shown already; yields what it prints, as it comes.

        Raises DemoError if it is silent for longer than `limit_s`.
        """
        last_s = time.monotonic()
        with _started(self._inside(command)) as process:
            for piece in _pieces(process):
                if piece is not None:
                    last_s = time.monotonic()
                    yield piece
                elif time.monotonic() - last_s > limit_s:
                    raise DemoError(f"nothing came within {limit_s:.0f} s")
                else:
                    on_silence()
        if process.returncode:
            raise DemoError(f"it ended with exit status {process.returncode}")

    @contextlib.contextmanager
    def last_line_of(self, command: str) -> Iterator[Callable[[], str]]:
        """Follow a command's output beside everything else; tells its latest line."""
        latest = [""]

        def read(process: subprocess.Popen[bytes]) -> None:
            assert process.stdout is not None
            for line in process.stdout:
                latest[0] = line.decode(errors="replace").strip() or latest[0]

        with _started(self._inside(command)) as process:
            reader = threading.Thread(target=read, args=(process,), daemon=True)
            reader.start()
            try:
                yield lambda: latest[0]
            finally:
                process.kill()
                process.wait()
                reader.join()

    def _inside(self, command: str) -> list[str]:
        environment = {
            "COLUMNS": str(self.screen.width),
            "SYSTEMD_PAGER": "cat",
            # What is printed is looked at here too.
            "NO_COLOR": "1",
            "SYSTEMD_COLORS": "0",
            "SYSTEMD_URLIFY": "0",
        }
        words = ["env", *(f"{name}={value}" for name, value in environment.items())]
        shell = ["bash", "-o", "pipefail", "-c", command]
        return [str(HOST), "run", "--name", self.name, "--", *words, *shell]


@contextlib.contextmanager
def _started(
    argv: Sequence[str], *, stdout: int = subprocess.PIPE, stderr: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is over when the block is left; one that is left early is ended first."""
    process = subprocess.Popen(
        argv,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield process
    except BaseException:
        _end(process)
        raise
    process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: kindly, then by force; another Ctrl-C is impatience."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(_END_GRACE_S)


def _pieces(process: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """What a process prints, as it comes; None whenever it has been silent for a moment."""
    arrived: queue.Queue[bytes] = queue.Queue()
    assert process.stdout is not None
    out = process.stdout.fileno()

    def read() -> None:
        while piece := os.read(out, 65536):
            arrived.put(piece)
        arrived.put(b"")

    threading.Thread(target=read, daemon=True).start()
    rest = b""
    while True:
        try:
            piece = arrived.get(timeout=_TICK_S)
        except queue.Empty:
            yield None
            continue
        text, rest = _decoded(rest + piece)
        if text:
            yield text
        if not piece:
            return


def _decoded(data: bytes) -> tuple[str, bytes]:
    """The text of the bytes, and what is left of a character that is not whole yet."""
    for cut in range(min(4, len(data) + 1)):
        try:
            return data[: len(data) - cut].decode(), data[len(data) - cut :]
        except UnicodeDecodeError:
            continue
    return data.decode(errors="replace"), b""


def _read_terminal(leader: int) -> Iterator[str]:
    """What is printed on a terminal until its last user has gone."""
    rest = b""
    with os.fdopen(leader, "rb", buffering=0) as source:
        while True:
            try:
                data = source.read(65536)
            except OSError:  # Linux's way to say that the other side is closed
                return
            if not data:
                return
            text, rest = _decoded(rest + data)
            yield text.replace("\r\n", "\n")
