# SPDX-License-Identifier: Apache-2.0
"""An event loop whose sockets belong to a test host's network, run by a thread of the tests.

A network namespace is a property of the thread (setns(2)), so the host's loopback can be used from
here without starting a process a request. Unix sockets and files stay the machine's own.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000


class NetnsLoop:
    def __init__(self, pid: int) -> None:
        self._loop = self.event_loop = asyncio.new_event_loop()
        entered: list[OSError | None] = []
        ready = threading.Event()

        def run() -> None:
            try:
                _enter(pid)
                entered.append(None)
            except OSError as error:
                entered.append(error)
            finally:
                ready.set()
            if entered[0] is None:
                self._loop.run_forever()
            self._loop.close()

        self._thread = threading.Thread(target=run, name=f"netns-{pid}", daemon=True)
        self._thread.start()
        ready.wait()
        if entered[0] is not None:
            raise entered[0]

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 120.0) -> T:
        """Run a coroutine on the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to the network of pid {pid}")
    finally:
        os.close(fd)
