# SPDX-License-Identifier: Apache-2.0
"""Boots the hosts that tests use, once a session, and takes them down at its end.

SPARKD_TEST_HOST names a host that runs already; then nothing is booted or ended (for development).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis

from .system.hosts import HOST, SETTINGS, Host

# How long generating and running an example takes says something about the machine, which may be
# busy, and nothing about the code. Few examples find what a change has just broken; `make test`
# asks for more. They are the same each time: what fails has the change to blame, and not its luck.
hypothesis.register_profile(
    "calm",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=int(os.environ.get("SPARKD_EXAMPLES", "30")),
)
hypothesis.load_profile("calm")


# Whoever starts the tests in the background of a script has them ignore Ctrl-C, and with them every
# command that they start and then interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Else pytest-asyncio makes a loop only to put it back after its first test; `asyncio.run` in a
# later one drops it unclosed, and whichever test runs when garbage is collected fails for it.
asyncio.set_event_loop(None)


def _booted(name: str, suite: str, engine: str) -> Iterator[Host]:
    given = os.environ.get("SPARKD_TEST_HOST")
    if given:
        host = Host(given)
        yield host
        host.close()
        return
    up = [str(HOST), "up", "--name", name, "--suite", suite, "--engine", engine]
    subprocess.run(up, check=True, timeout=1800)
    host = Host(name)
    try:
        yield host
    finally:
        host.close()
        subprocess.run([str(HOST), "down", "--name", name], check=True)


@pytest.fixture(scope="session")
def trixie() -> Iterator[Host]:
    yield from _booted(f"test-trixie-{os.getpid()}", "trixie", "fake")


@pytest.fixture(scope="session")
def bookworm() -> Iterator[Host]:
    yield from _booted(f"test-bookworm-{os.getpid()}", "bookworm", "fake")


@pytest.fixture(scope="session")
def vllm() -> Iterator[Host]:
    """A Debian 13 host with real vLLM on the CPU and a real small model."""
    yield from _booted(f"test-vllm-{os.getpid()}", "trixie", "vllm")


@pytest.fixture
def host(trixie: Host) -> Iterator[Host]:
    """A Debian 13 host at rest: socket listening, no model running, a daemon or none."""
    if not trixie.at_rest:
        trixie.stop_models()
    trixie.run("systemctl", "reset-failed")
    trixie.run("systemctl", "start", "sparkd.socket")
    trixie.configure(SETTINGS)
    yield trixie
    trixie.stop_models()
    trixie.at_rest = True


def pytest_collection_finish() -> None:
    """What was loaded stays until the end: no collection of garbage need look at it again."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"system", "clients"} & set(item.path.parts):
            item.add_marker(pytest.mark.system)
