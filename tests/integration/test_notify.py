# SPDX-License-Identifier: Apache-2.0
"""The interface to systemd: sockets by name and by pid, readiness, and the watchdog."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.adapters.systemd.notify import Notifier, inherited_sockets
from sparkd.core.errors import HostError

pytestmark = [
    pytest.mark.integration,
    # The socket of a notifier is open as long as the process.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
ACTIVATED = """
import os
from sparkd.adapters.systemd.notify import inherited_sockets
for name, sockets in sorted(inherited_sockets().items()):
    for one in sockets:
        print(name, one.getsockname()[1], os.get_inheritable(one.fileno()))
"""


def activated(listeners: list[socket.socket], *, pid: str = "$$", **environ: str) -> list[str]:
    """What a program sees that is started with these sockets from descriptor 3 on."""
    # By way of high numbers: a descriptor that is moved to 3 could be one that is still needed.
    moves = [f"{90 + i}<&{one.fileno()}" for i, one in enumerate(listeners)]
    moves += [f"{3 + i}<&{90 + i} {90 + i}<&-" for i, _ in enumerate(listeners)]
    script = f'exec {" ".join(moves)}; LISTEN_PID={pid} exec "$0" -c "$1"'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, ACTIVATED],
        cwd=ROOT,
        pass_fds=[one.fileno() for one in listeners],
        env={**os.environ, "LISTEN_FDS": str(len(listeners)), **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    yield sockets
    for one in sockets:
        one.close()


def port(listener: socket.socket) -> int:
    number: int = listener.getsockname()[1]
    return number


def test_sockets_come_by_name_and_are_not_passed_on(listeners: list[socket.socket]) -> None:
    a, b, c = (port(one) for one in listeners)
    seen = activated(listeners, LISTEN_FDNAMES="http:admin:http")
    assert seen == [f"admin {b} False", f"http {a} False", f"http {c} False"]


def test_socket_without_a_name_is_unknown(listeners: list[socket.socket]) -> None:
    assert activated(listeners[:1]) == [f"unknown {port(listeners[0])} False"]
    assert activated(listeners[:2], LISTEN_FDNAMES="http") == [
        f"http {port(listeners[0])} False",
        f"unknown {port(listeners[1])} False",
    ]


def test_sockets_for_another_process_are_left_alone(listeners: list[socket.socket]) -> None:
    assert activated(listeners, pid="1", LISTEN_FDNAMES="http:http:http") == []


def test_no_sockets_are_no_error() -> None:
    assert inherited_sockets({}) == {}
    assert inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}) == {}


def test_count_that_is_no_number_is_refused_with_its_value() -> None:
    with pytest.raises(HostError, match="LISTEN_FDS is 'many'"):
        inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"})


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The end at which systemd listens for notifications."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().splitlines()


def test_manager_hears_of_every_state(manager: socket.socket) -> None:
    notifier = Notifier({})
    notifier.ready("serving 3 models")
    assert heard(manager) == ["READY=1", "STATUS=serving 3 models"]
    notifier.status("loading fake-a")
    assert heard(manager) == ["STATUS=loading fake-a"]
    notifier.alive()
    assert heard(manager) == ["WATCHDOG=1"]
    notifier.reloading(17)
    assert heard(manager) == ["RELOADING=1", "MONOTONIC_USEC=17"]
    notifier.stopping("2 requests open")
    assert heard(manager) == ["STOPPING=1", "STATUS=2 requests open"]


def test_without_a_manager_notifying_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier({}).ready("serving")


def test_manager_that_is_gone_is_no_error(manager: socket.socket) -> None:
    notifier = Notifier({})
    manager.close()
    notifier.alive()


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_is_fed_only_when_it_is_ours(
    environ: dict[str, str], watchdog_s: float | None
) -> None:
    assert Notifier(environ).watchdog_s == watchdog_s
