# SPDX-License-Identifier: Apache-2.0
"""Samples of a model's memory while it is used, taken without a timer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from sparkd.lifecycle.sessions import Sessions

_PAUSE_S = 30.0
"""A sample reads /proc and writes a file; models hardly change once they are loaded."""


@dataclass(slots=True)
class Sampler:
    sessions: Sessions
    _looked_s: dict[str, float] = field(default_factory=dict)

    async def sample(self, model_id: str) -> None:
        """Take a sample. Call with a use lease on the model: it is not stopped meanwhile."""
        now_s = time.monotonic()
        if now_s - self._looked_s.get(model_id, -_PAUSE_S) >= _PAUSE_S:
            self._looked_s[model_id] = now_s
            await asyncio.to_thread(self.sessions.sample, model_id)
