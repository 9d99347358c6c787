# SPDX-License-Identifier: Apache-2.0
"""The guarantees of the test host, on which every other system test relies.

The module boots separate plain hosts, so it does not test sparkd or touch other tests' hosts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root"),
]

HOST = Path(__file__).resolve().parents[1] / "host" / "host"
NAME = f"promises-{os.getpid()}"


def host(
    *arguments: str, stdin: bytes | None = None, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([HOST, *arguments], input=stdin, capture_output=True, check=check)


def inside(*command: str, name: str = NAME, user: str = "root") -> str:
    return host("run", "--name", name, "--user", user, "--", *command).stdout.decode().strip()


def begin_of(pid: int) -> str | None:
    """When a process began, in ticks, which tells it from a later one of its number.

    None for one that is dead. A zombie is: how soon it is collected depends on the machine's init.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def nspawn_pid(name: str) -> int:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            if command.startswith("systemd-nspawn\0") and f"--hostname={name}\0" in command:
                found.append(int(pid))
    assert len(found) == 1
    return found[0]


def descendants(pid: int) -> dict[int, str | None]:
    """A process and all below it, each with its begin."""
    found = {pid: begin_of(pid)}
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= descendants(int(child))
    return found


def living(processes: dict[int, str | None]) -> list[int]:
    return [pid for pid, begin in processes.items() if begin and begin_of(pid) == begin]


def await_true(condition: Callable[[], bool], limit_s: float = 60.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture(scope="module")
def plain_host() -> Iterator[str]:
    host("up", "--no-deb", "--name", NAME)
    yield NAME
    host("down", "--name", NAME)


@pytest.fixture
def doomed_host() -> Iterator[str]:
    name = f"{NAME}-doomed"
    host("up", "--no-deb", "--name", name)
    yield name
    host("down", "--name", name)


def traces_on_machine(name: str) -> list[Path]:
    # Not by glob: what others have there may vanish in the middle of it.
    return [
        Path(directory) / entry
        for place in (
            "/sys/fs/cgroup",
            "/run/systemd/nspawn/propagate",
            "/run/systemd/nspawn/unix-export",
        )
        for directory, below, files in os.walk(place)
        for entry in (*below, *files)
        if fnmatch(entry, f"*{name}-[0-9a-f]*")
    ]


def test_second_up_keeps_the_running_host(plain_host: str) -> None:
    boot_id = inside("cat", "/proc/sys/kernel/random/boot_id")
    again = host("up", "--no-deb", "--name", plain_host)
    assert b"runs already" in again.stderr
    assert inside("cat", "/proc/sys/kernel/random/boot_id") == boot_id


def test_up_refuses_another_suite_on_a_host_that_exists(plain_host: str) -> None:
    refused = host("up", "--no-deb", "--name", plain_host, "--suite", "bookworm", check=False)
    assert refused.returncode == 1
    assert b"is trixie" in refused.stderr
    assert b"hint: host down" in refused.stderr


def test_host_has_booted_without_a_failed_unit(plain_host: str) -> None:
    assert inside("systemctl", "is-system-running", name=plain_host) == "running"


@pytest.mark.usefixtures("plain_host")
def test_run_passes_stdin_and_stdout_untouched() -> None:
    every_byte = bytes(range(256)) * 4096
    assert host("run", "--name", NAME, "--", "cat", stdin=every_byte).stdout == every_byte


@pytest.mark.usefixtures("plain_host")
def test_run_keeps_stderr_apart() -> None:
    done = host("run", "--name", NAME, "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize("status", [0, 1, 7, 255])
@pytest.mark.usefixtures("plain_host")
def test_run_returns_the_exit_status(status: int) -> None:
    done = host("run", "--name", NAME, "--", "sh", "-c", f"exit {status}", check=False)
    assert done.returncode == status


@pytest.mark.usefixtures("plain_host")
def test_run_gives_arguments_as_they_are() -> None:
    arguments = ["--name", "--", "two words", "$HOME", "*", ""]
    printed = host("run", "--name", NAME, "--", "printf", "%s\\n", *arguments).stdout
    assert printed.decode().split("\n")[:-1] == arguments


@pytest.mark.usefixtures("plain_host")
def test_run_starts_from_a_clean_environment() -> None:
    os.environ["SPARKD_LEAKED"] = "yes"
    try:
        names = {line.partition("=")[0] for line in inside("env").splitlines()}
    finally:
        del os.environ["SPARKD_LEAKED"]
    assert names - {"TERM"} == {"PATH", "HOME", "LANG", "USER", "LOGNAME"}


@pytest.mark.usefixtures("plain_host")
def test_run_as_user_reaches_that_users_systemd_and_podman() -> None:
    running = ("run", "--name", NAME, "--user", "sparkd", "--", "systemctl", "--user")
    assert await_true(lambda: host(*running, "is-system-running", check=False).returncode == 0)
    driver = [
        "podman",
        "info",
        "--format",
        "{{.Store.GraphDriverName}} {{.Host.Security.Rootless}}",
    ]
    assert inside(*driver, user="sparkd") == "overlay true"


@pytest.mark.usefixtures("plain_host")
def test_command_inside_ends_when_run_is_killed() -> None:
    with subprocess.Popen([HOST, "run", "--name", NAME, "--", "sleep", "4242"]) as running:
        assert await_true(lambda: "sleep 4242" in inside("ps", "-eo", "args"))
        running.kill()
    assert await_true(lambda: "sleep 4242" not in inside("ps", "-eo", "args"))


@pytest.mark.usefixtures("plain_host")
def test_cp_puts_files_and_directories_into_the_host(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho copied\n")
    script.chmod(0o755)
    host("cp", "--name", NAME, str(script), "/usr/local/bin/")
    host("cp", "--name", NAME, str(tmp_path), "/srv/copy")
    assert inside("script") == "copied"
    assert inside("/srv/copy/script") == "copied"


def test_two_hosts_do_not_see_each_other(plain_host: str, doomed_host: str) -> None:
    listen = "nohup python3 -m http.server 8009 --bind 127.0.0.1 >/dev/null 2>&1 &"
    inside("sh", "-c", listen, name=plain_host)
    ask = ("curl", "-s", "-f", "-o", "/dev/null", "http://127.0.0.1:8009/")
    asked = ("run", "--name", plain_host, "--", *ask)
    assert await_true(lambda: host(*asked, check=False).returncode == 0)
    refused = host("run", "--name", doomed_host, "--", *ask, check=False)
    assert refused.returncode == 7
    inside("systemctl", "kill", "--signal=KILL", "user.slice", name=doomed_host)
    assert "http.server" in inside("ps", "-eo", "args", name=plain_host)


def test_reboot_ends_processes_and_clears_run_but_keeps_files(doomed_host: str) -> None:
    inside(
        "sh", "-c", "touch /run/volatile /srv/kept; nohup sleep 4243 >&- 2>&- &", name=doomed_host
    )
    boot_id = inside("cat", "/proc/sys/kernel/random/boot_id", name=doomed_host)
    host("reboot", "--name", doomed_host)
    assert inside("cat", "/proc/sys/kernel/random/boot_id", name=doomed_host) != boot_id
    assert (
        inside("sh", "-c", "ls -d /run/volatile /srv/kept || true", name=doomed_host) == "/srv/kept"
    )
    assert "sleep 4243" not in inside("ps", "-eo", "args", name=doomed_host)
    running = ("run", "--name", doomed_host, "--user", "sparkd", "--", "systemctl", "--user")
    assert await_true(lambda: host(*running, "is-system-running", check=False).returncode == 0)


def test_down_leaves_no_process_and_no_trace(doomed_host: str) -> None:
    # One that ignores signals, as user, in a session of its own: the worst that a test leaves.
    stubborn = "trap '' TERM INT HUP; while :; do sleep 1; done"
    inside(
        "sh", "-c", f'setsid nohup sh -c "{stubborn}" >&- 2>&- &', name=doomed_host, user="sparkd"
    )
    processes = descendants(nspawn_pid(doomed_host))
    assert len(processes) > 5
    assert living(processes)
    assert traces_on_machine(doomed_host)
    host("down", "--name", doomed_host)
    assert living(processes) == []
    assert not traces_on_machine(doomed_host)
    listed = host("status").stdout.decode()
    assert doomed_host not in listed


@pytest.mark.parametrize("victim", ["systemd-nspawn", "systemd"])
@pytest.mark.parametrize("verb", [("up", "--no-deb"), ("down",)])
def test_half_dead_host_is_cleared_first(
    doomed_host: str, victim: str, verb: tuple[str, ...]
) -> None:
    nspawn = nspawn_pid(doomed_host)
    leader = int(Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()[0])
    processes = descendants(nspawn)
    os.kill(nspawn if victim == "systemd-nspawn" else leader, signal.SIGKILL)
    host(*verb, "--name", doomed_host)
    assert living(processes) == []
    if verb[0] == "up":
        assert inside("systemctl", "is-system-running", name=doomed_host) == "running"
    else:
        assert not traces_on_machine(doomed_host)


def test_down_of_no_host_is_no_error() -> None:
    host("down", "--name", f"{NAME}-never-made")


def test_run_in_no_host_says_how_to_get_one() -> None:
    refused = host("run", "--name", f"{NAME}-never-made", "--", "true", check=False)
    assert refused.returncode == 1
    assert b"does not run" in refused.stderr
    assert b"hint: host up --name" in refused.stderr
