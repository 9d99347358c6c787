# SPDX-License-Identifier: Apache-2.0
"""The command line: options, one demonstration at a time, and the host's end whatever happens."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .screen import Screen
from .stage import DemoError, Stage
from .story import FAKE, VLLM, Cast, play

_CASTS = {cast.engine: cast for cast in (VLLM, FAKE)}


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        print("demo: it boots a host, which needs root\nhint: sudo make demo", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    stage = Stage(options.name, Screen())
    began_s = time.monotonic()
    try:
        with _alone(options.name):
            _perform(stage, _CASTS[options.engine], keep=options.keep)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    left = "the host stays" if options.keep else "nothing is left of it"
    stage.screen.heading(f"All of it seen in {time.monotonic() - began_s:.0f} s; {left}")
    return 0


def _perform(stage: Stage, cast: Cast, *, keep: bool) -> None:
    """Play, and take the host down in any case. Raises DemoError."""
    try:
        stage.take_down()
        play(stage, cast)
    except DemoError:
        stage.screen.done_waiting()
        _tell_why(stage)
        raise
    finally:
        stage.screen.done_waiting()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if keep:
            stage.screen.note(f"look around: tests/host/host run --name {stage.name} -- bash")
        else:
            stage.screen.heading("The host goes")
            stage.take_down()


def _tell_why(stage: Stage) -> None:
    """The last lines of the daemon, if there is a host that has any."""
    try:
        print(stage.quietly("journalctl -t sparkd -n 20 --no-hostname"), file=sys.stderr)
    except DemoError:
        return


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Refuse to run twice at once on one host. Raises DemoError."""
    cache = Path(os.environ.get("SPARKD_CACHE") or Path.home() / ".cache" / "sparkd")
    (cache / "locks").mkdir(parents=True, exist_ok=True)
    with (cache / "locks" / f"demo-{name}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"another demonstration uses the host '{name}'") from None
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo", description="Show sparkd at work on a booted host of its own."
    )
    parser.add_argument(
        "--engine", choices=[*_CASTS], default=VLLM.engine, help="default: %(default)s"
    )
    parser.add_argument("--name", default="demo", help="of the host (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the host for a look around")
    return parser
