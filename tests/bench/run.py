#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench`: boot a host with the fake engine, measure sparkd beside it, print the figures.

SPARKD_TEST_HOST names a host that runs already; then nothing is booted or ended. `--alone` leaves
out the other gateways. No figure is judged; the run fails only when an answer was wrong, because
then there is nothing to measure.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import (  # noqa: E402 (the path is set above)
    machine,
    measure,
    report,
    rivals,
    several,
    workload,
)
from tests.bench.subject import BenchError, Subject, Way  # noqa: E402
from tests.system.hosts import HOST, Host  # noqa: E402

RESULTS = ROOT / "build/bench"


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with booted() as host:
            results = run(host)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"bench: sparkd did not answer: {error!r}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"bench: {error}\n{error.stderr or ''}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{report.sentence(results['machine'])}\n\n{report.text_table(results)}\n")
    print(f"{path.relative_to(ROOT)}\nInto docs/performance.md: tests/bench/render.py {path.name}")
    return 0


@contextmanager
def booted() -> Iterator[Host]:
    """The host to measure on: the one that is given, or one of our own, which ends with us."""
    given = os.environ.get("SPARKD_TEST_HOST")
    if given:
        yield Host(given)
        return
    name = f"bench-{os.getpid()}"
    try:
        subprocess.run([ROOT / "packaging/build-deb.sh"], check=True, stdin=subprocess.DEVNULL)
        subprocess.run([HOST, "up", "--name", name, "--engine", "fake"], check=True)
        yield Host(name)
    finally:
        # In a session of its own: another Ctrl-C would leave the host behind.
        subprocess.run([HOST, "down", "--name", name], check=False, start_new_session=True)


def run(host: Host) -> dict[str, Any]:
    """Every measurement, in an order in which none disturbs the next."""
    described = {**machine.describe(host), "load_before": machine.load_average()}
    host.stop_models()
    subject = Subject(host)
    results: dict[str, Any] = {}
    with ExitStack() as held:
        held.enter_context(host.file(workload.CATALOG_FILE, workload.CATALOG))
        held.enter_context(closing(subject))
        results["cold_start"] = step("cold starts", partial(measure.cold_start, subject))
        results["load"] = step("load the model", partial(measure.load_model, subject))
        if "--alone" not in sys.argv[1:]:
            subject.ways += held.enter_context(_rivals(subject))
        results["ways"] = {way.name: way.title for way in subject.ways}
        subject.pin(workload.MODEL)
        results["idle"] = step("idle", partial(measure.idle_cost, subject))
        results["requests"] = {
            str(count): step(
                f"requests, {count} at once", partial(measure.requests, subject, count)
            )
            for count in (1, *workload.BUSY_CONNECTIONS)
        }
        big = partial(measure.requests, subject, 1, body_bytes=workload.BIG_BODY_BYTES)
        results["big"] = step("large bodies", big)
        results["streams"] = {
            str(count): step(f"{count} streams", partial(measure.streams, subject, count, pace_ms))
            for count, pace_ms in workload.STREAMS.items()
        }
        results["crowded"] = step("a crowd that waits", partial(several.crowded, subject))
        results["swaps"] = step("swaps", partial(several.swaps, subject))
        results["idle_stop"] = step("idle stops", partial(measure.idle_stop, subject))
        host.stop_models()
    host.close()
    results["machine"] = {**described, "load_after": machine.load_average()}
    return results


@contextmanager
def _rivals(subject: Subject) -> Iterator[tuple[Way, ...]]:
    """The other gateways, started beside sparkd."""
    print("bench: start other gateways ...", file=sys.stderr, flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="sparkd-bench-") as directory,
        rivals.started(subject, Path(directory)) as ways,
    ):
        yield ways


def step(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do one measurement and say how long it took."""
    print(f"bench: {name} ...", end=" ", file=sys.stderr, flush=True)
    began_s = time.monotonic()
    result = work()
    print(f"{time.monotonic() - began_s:.1f} s", file=sys.stderr, flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
