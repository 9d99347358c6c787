# SPDX-License-Identifier: Apache-2.0
"""Background activities during requests and kills: one thread each, with periodic steps.

A failed step becomes a complaint and the activity continues, so that a long run shows all
failures, not only the first. Only a connection that breaks while the gateway is being killed is
not a failure; the step is then counted as disturbed.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx

from .soak import SEED, Soak


class Activity:
    """`begin`, then `step` every so many seconds, then `end`; all in one thread of its own."""

    every_s = 10.0
    ends_gateways = False
    """Whether its steps do so; then it stops before the part in which one gateway lives on."""

    def __init__(self, soak: Soak) -> None:
        self.soak = soak
        self.host = soak.host
        self.random = random.Random(f"{SEED} {type(self).__name__}")
        self.counts: Counter[str] = Counter()

    def begin(self) -> None:
        """Get ready; nothing is killed yet."""

    def step(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Say what there is to say at the end; nothing is killed any more."""


class Company:
    """All activities of a run, begun when it is entered and ended when it is left."""

    def __init__(self, soak: Soak, *activities: Activity) -> None:
        self.complaints: list[str] = []
        self._soak = soak
        self._stop = threading.Event()
        self._calm = threading.Event()
        self._ready = threading.Barrier(len(activities) + 1)
        self._threads = {
            activity: threading.Thread(target=self._live, args=(activity,), daemon=True)
            for activity in activities
        }

    def __enter__(self) -> Self:
        for thread in self._threads.values():
            thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._calm.set()
        self._stop.set()
        for thread in self._threads.values():
            thread.join()

    def calm(self) -> None:
        """From here on no activity ends a gateway."""
        self._calm.set()
        for activity, thread in self._threads.items():
            if activity.ends_gateways:
                thread.join()

    @property
    def counts(self) -> Counter[str]:
        return sum((activity.counts for activity in self._threads), Counter())

    def _live(self, activity: Activity) -> None:
        self._try(activity, activity.begin)
        self._ready.wait()
        over = self._calm if activity.ends_gateways else self._stop
        while not over.wait(activity.every_s * (0.5 + activity.random.random())):
            self._try(activity, activity.step)
        self._try(activity, activity.end)

    def _try(self, activity: Activity, work: Callable[[], None]) -> None:
        name, began_s = type(activity).__name__.lower(), time.monotonic()
        try:
            work()
        except httpx.HTTPError as error:
            if self._soak.was_cut(began_s):
                activity.counts[f"{name} disturbed"] += 1
            else:
                self._complain(name, error)
        except Exception as error:
            self._complain(name, error)

    def _complain(self, name: str, error: Exception) -> None:
        said = "".join(traceback.format_exception(error))
        output = getattr(error, "stdout", None), getattr(error, "stderr", None)
        at = f"{time.strftime('%H:%M:%S')}, {time.monotonic() - self._soak.began_s:.1f} s"
        self.complaints.append(f"{name} at {at}: {said}{output if any(output) else ''}")
        print(self.complaints[-1], flush=True)
