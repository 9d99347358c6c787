# SPDX-License-Identifier: Apache-2.0
"""Where bodies are read and rewritten: small ones at once, large ones in one thread, in turn.

One thread bounds the memory of parsed bodies to that of one body. Its work consists of short calls,
between which the event loop gets the interpreter: docs/decisions/0008 has the measurements.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec

from sparkd.core.rewriting.request_body import LARGE_BYTES, Prepared

_P = ParamSpec("_P")


class BodyWorker:
    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")

    async def run(
        self, size: int, prepare: Callable[_P, Prepared], *args: _P.args, **kwargs: _P.kwargs
    ) -> Prepared:
        """The result of `prepare` for a body of this size. Raises as it does."""
        if size <= LARGE_BYTES:
            return prepare(*args, **kwargs)
        work = partial(prepare, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
