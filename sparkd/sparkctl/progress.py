# SPDX-License-Identifier: Apache-2.0
"""One piece of work of a command, run to its end with progress on stderr.

On a terminal it updates one line that counts seconds; elsewhere it prints a line periodically.
Ctrl-C, SIGTERM and SIGHUP cancel the work and wait for its cleanup.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sparkd.core.errors import SparkdError
from sparkd.sparkctl.output import CLEAR_LINE

T = TypeVar("T")

_FIRST_S = 1.0
"""The delay before the first progress line; shorter work prints none."""
_TERMINAL_INTERVAL_S = 1.0
_LOG_INTERVAL_S = 15.0


def run(work: Coroutine[Any, Any, T], doing: Callable[[], str]) -> T:
    """Run the work and return its result; `doing` describes the current step in a few words."""
    try:
        return asyncio.run(_watched(work, doing))
    except asyncio.CancelledError:
        # Only a signal cancels the whole work; from here on a signal has its default effect.
        raise KeyboardInterrupt from None


def run_quietly(work: Coroutine[Any, Any, T]) -> T:
    """Run work that reports its own progress, and return its result."""
    try:
        return asyncio.run(work)
    except asyncio.CancelledError:
        # Ctrl-C, when a library cancelled the work a second time (anyio of Debian 12).
        raise KeyboardInterrupt from None


async def _watched(work: Coroutine[Any, Any, T], doing: Callable[[], str]) -> T:
    loop, whole = asyncio.get_running_loop(), asyncio.current_task()
    assert whole is not None
    # asyncio itself turns SIGINT into a cancellation and waits for it.
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            loop.add_signal_handler(signum, whole.cancel)
    ticker = asyncio.create_task(_tell(doing))
    try:
        return await work
    except SparkdError:
        if whole.cancelling():
            # A signal ended the work, even if that resembles a crash.
            raise asyncio.CancelledError from None
        raise
    finally:
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticker


async def _tell(doing: Callable[[], str]) -> None:
    began_s = time.monotonic()
    terminal = sys.stderr.isatty()
    await asyncio.sleep(_FIRST_S)
    try:
        while True:
            line = f"{doing()} {time.monotonic() - began_s:.0f} s"
            start, end = (CLEAR_LINE, "") if terminal else ("", "\n")
            print(start, line, sep="", end=end, file=sys.stderr, flush=True)
            await asyncio.sleep(_TERMINAL_INTERVAL_S if terminal else _LOG_INTERVAL_S)
    finally:
        if terminal:
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)
