# SPDX-License-Identifier: Apache-2.0
"""Locks and leases between real processes: mutual exclusion, and release at every death."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sparkd.adapters.flock import FileLock, Mode
from sparkd.adapters.proc.processes import LockTable
from sparkd.core.errors import HostError
from sparkd.core.names import Layout, Names
from sparkd.lifecycle.leases import Leases

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
MODEL = Names("m")
DEADLINE_S = 60.0
LONG_AGO = 1.0
"""A second after the boot: uses are noted by the clock that does not jump."""

PRELUDE = """
import asyncio, sys
from pathlib import Path
from sparkd.adapters.flock import FileLock, Mode
from sparkd.core.names import Layout, Names
from sparkd.lifecycle.leases import Leases
leases = Leases(Layout(runtime_dir=Path(sys.argv[1])))
layout, m = leases.layout, Names("m")
"""


class Process:
    """A process of its own that runs a few lines, says "ready", and stays until it is told."""

    def __init__(self, runtime_dir: Path, lines: str, *, ready: bool = True) -> None:
        program = f"{PRELUDE}\n{lines}\nprint('ready', flush=True)\nsys.stdin.read()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(runtime_dir)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


Start = Callable[..., Process]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(runtime_dir=tmp_path)
    layout.locks_dir.mkdir()
    return layout


@pytest.fixture
def leases(layout: Layout) -> Leases:
    return Leases(layout)


@pytest.fixture
def start(layout: Layout) -> Iterator[Start]:
    processes: list[Process] = []

    def start_process(lines: str, *, ready: bool = True) -> Process:
        processes.append(Process(layout.runtime_dir, lines, ready=ready))
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()


def free(path: Path, mode: Mode = Mode.EXCLUSIVE) -> bool:
    lock = FileLock.try_take(path, mode)
    if lock is None:
        return False
    lock.close()
    return True


def files_open() -> list[str]:
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # The one by which the directory was read.
            found.append(str(fd.readlink()))
    return found


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, "it did not come to be so"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("held", "wanted", "granted"),
    [
        (Mode.SHARED, Mode.SHARED, True),
        (Mode.SHARED, Mode.EXCLUSIVE, False),
        (Mode.EXCLUSIVE, Mode.SHARED, False),
        (Mode.EXCLUSIVE, Mode.EXCLUSIVE, False),
    ],
)
def test_only_sharers_hold_a_lock_together(
    start: Start, layout: Layout, held: Mode, wanted: Mode, granted: bool
) -> None:
    holder = start(f"lock = FileLock.try_take(layout.gpu_lock, Mode.{held.name})")
    assert free(layout.gpu_lock, wanted) is granted
    holder.kill()
    assert free(layout.gpu_lock, wanted)


def test_two_locks_of_one_process_exclude_each_other_too(layout: Layout) -> None:
    with FileLock.try_take(layout.gpu_lock, Mode.EXCLUSIVE) or pytest.fail("not granted"):
        assert not free(layout.gpu_lock, Mode.SHARED)
    assert free(layout.gpu_lock)


def test_lock_is_let_go_once_however_often_it_is_closed(layout: Layout) -> None:
    lock = FileLock.try_take(layout.gpu_lock, Mode.EXCLUSIVE)
    assert lock
    lock.close()
    other = FileLock.try_take(layout.gpu_lock, Mode.EXCLUSIVE)
    lock.close()
    assert other
    assert not free(layout.gpu_lock)
    other.close()


def test_lock_is_not_inherited_by_children(layout: Layout) -> None:
    lock = FileLock.try_take(layout.gpu_lock, Mode.EXCLUSIVE)
    assert lock
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        lock.close()
        try:
            assert free(layout.gpu_lock)
        finally:
            child.kill()


def test_lock_file_that_cannot_be_opened_says_how_to_make_it(layout: Layout) -> None:
    with pytest.raises(HostError, match=r"cannot open lock file .*/none/locks/x") as caught:
        FileLock.try_take(layout.runtime_dir / "none" / "locks" / "x", Mode.SHARED)
    assert "systemd-tmpfiles" in caught.value.hint


def test_directory_of_locks_that_somebody_removed_is_made_anew(layout: Layout) -> None:
    shutil.rmtree(layout.locks_dir)
    with FileLock.try_take(layout.start_lock, Mode.EXCLUSIVE) or pytest.fail("not granted"):
        assert FileLock.try_take(layout.start_lock, Mode.SHARED) is None
    assert layout.locks_dir.stat().st_mode & 0o777 == 0o700


def test_link_in_place_of_a_lock_file_is_not_followed(layout: Layout) -> None:
    layout.gpu_lock.symlink_to(layout.runtime_dir / "elsewhere")
    with pytest.raises(HostError):
        FileLock.try_take(layout.gpu_lock, Mode.SHARED)
    assert not (layout.runtime_dir / "elsewhere").exists()


async def test_waiter_gets_the_lock_when_its_holder_is_killed(start: Start, layout: Layout) -> None:
    holder = start("lock = FileLock.try_take(layout.gpu_lock, Mode.EXCLUSIVE)")
    waiter = asyncio.create_task(FileLock.take(layout.gpu_lock, Mode.SHARED))
    await asyncio.sleep(0.1)
    assert not waiter.done()
    holder.kill()
    async with asyncio.timeout(DEADLINE_S):
        (await waiter).close()


async def test_waiter_that_gives_up_leaves_nothing(start: Start, layout: Layout) -> None:
    holder = start("lock = FileLock.try_take(layout.gpu_lock, Mode.SHARED)")
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await FileLock.take(layout.gpu_lock, Mode.EXCLUSIVE)
    assert str(layout.gpu_lock) not in files_open()
    holder.kill()
    assert free(layout.gpu_lock)


def test_killed_waiter_leaves_the_lock_to_its_holder_and_then_to_others(
    start: Start, layout: Layout
) -> None:
    lock = FileLock.try_take(layout.gpu_lock, Mode.EXCLUSIVE)
    assert lock
    waiter = start(
        "print('ready', flush=True)\nasyncio.run(FileLock.take(layout.gpu_lock, Mode.EXCLUSIVE))"
    )
    waiter.kill()
    assert not free(layout.gpu_lock)
    lock.close()
    assert free(layout.gpu_lock)


def test_model_in_use_is_not_stopped_and_is_once_its_user_is_killed(
    start: Start, leases: Leases
) -> None:
    user = start("lease = leases.try_use(m)")
    second = start("lease = leases.try_use(m)")
    assert leases.try_stop(MODEL) is None
    user.kill()
    assert leases.try_stop(MODEL) is None
    second.kill()
    with leases.try_stop(MODEL) or pytest.fail("not granted"):
        pass


@pytest.mark.parametrize(
    "lines",
    [
        "lock = asyncio.run(leases.transition(m))",
        "right = leases.try_stop(m)",
        "lock = asyncio.run(leases.transition(m)); drained = leases.try_drained(m)",
    ],
)
def test_model_in_transition_is_neither_used_nor_stopped(
    start: Start, leases: Leases, lines: str
) -> None:
    mover = start(lines)
    assert leases.try_use(MODEL) is None
    assert leases.try_stop(MODEL) is None
    ((_, in_transition),) = leases.activity_of(["m"])
    assert in_transition
    mover.kill()
    assert leases.activity_of(["m"]) == ((False, False),)
    with leases.try_use(MODEL) or pytest.fail("not granted"):
        pass


def test_refused_try_leaves_every_lock_as_it_was(start: Start, leases: Leases) -> None:
    user = start("lease = leases.try_use(m)")
    assert leases.try_stop(MODEL) is None
    # Had the refused stop kept the transition, no second use could begin.
    with leases.try_use(MODEL) or pytest.fail("not granted"):
        pass
    user.kill()


async def test_starter_lends_the_model_before_it_lets_the_transition_go(leases: Leases) -> None:
    transition = await leases.transition(MODEL)
    lease = leases.use_in_transition(MODEL)
    transition.close()
    assert leases.try_stop(MODEL) is None
    lease.close()
    with leases.try_stop(MODEL) or pytest.fail("not granted"):
        pass


def test_lending_a_model_that_is_being_stopped_is_a_defect(leases: Leases) -> None:
    with leases.try_stop(MODEL) or pytest.fail("not granted"), pytest.raises(RuntimeError):
        leases.use_in_transition(MODEL)


async def test_one_at_a_time_decides_about_starts(start: Start, leases: Leases) -> None:
    decider = start("lock = asyncio.run(leases.start())")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await leases.start()
    decider.kill()
    async with asyncio.timeout(DEADLINE_S):
        (await leases.start()).close()


async def test_drain_lets_nobody_in_and_waits_for_the_last_user(
    start: Start, leases: Leases
) -> None:
    user = start("lease = leases.try_use(m)")
    draining = asyncio.create_task(leases.drain(MODEL))
    await asyncio.sleep(0.1)
    assert not draining.done()
    assert leases.try_use(MODEL) is None
    assert leases.activity_of(["m"]) == ((True, True),)
    user.kill()
    async with asyncio.timeout(DEADLINE_S):
        with await draining:
            assert leases.try_use(MODEL) is None
    assert leases.activity_of(["m"]) == ((False, False),)


async def test_drain_that_is_given_up_lets_everybody_in_again(start: Start, leases: Leases) -> None:
    start("lease = leases.try_use(m)")
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await leases.drain(MODEL)
    with leases.try_use(MODEL) or pytest.fail("not granted"):
        assert leases.activity_of(["m"]) == ((True, False),)


def age(layout: Layout) -> None:
    os.utime(layout.activity_lock(MODEL), (LONG_AGO, LONG_AGO))


def test_use_is_noted_when_it_begins_and_when_it_ends(leases: Leases, layout: Layout) -> None:
    assert leases.last_used_s(MODEL) is leases.last_used_at(MODEL) is None
    began_s = time.monotonic()
    lease = leases.try_use(MODEL)
    assert lease
    assert abs((leases.last_used_s(MODEL) or 0) - began_s) < 30
    assert abs((leases.last_used_at(MODEL) or 0) - time.time()) < 30
    age(layout)
    lease.close()
    assert abs((leases.last_used_s(MODEL) or 0) - time.monotonic()) < 30
    age(layout)
    lease.close()
    assert leases.last_used_s(MODEL) == LONG_AGO


async def test_end_of_a_start_counts_as_a_use(leases: Leases, layout: Layout) -> None:
    with await leases.transition(MODEL):
        leases.touch(MODEL)
    assert abs((leases.last_used_s(MODEL) or 0) - time.monotonic()) < 30
    age(layout)
    assert leases.last_used_s(MODEL) == LONG_AGO


def test_looking_and_stopping_are_no_use(leases: Leases, layout: Layout) -> None:
    with leases.try_use(MODEL) or pytest.fail("not granted"):
        pass
    age(layout)
    leases.activity_of(["m"])
    with leases.try_stop(MODEL) or pytest.fail("not granted"):
        pass
    assert leases.last_used_s(MODEL) == LONG_AGO


def test_lock_file_that_was_only_made_tells_of_no_use(leases: Leases, layout: Layout) -> None:
    with leases.try_stop(MODEL) or pytest.fail("not granted"):
        pass
    assert layout.activity_lock(MODEL).exists()
    assert leases.last_used_s(MODEL) is leases.last_used_at(MODEL) is None


def test_table_names_each_holder_and_how_it_holds(start: Start, layout: Layout) -> None:
    first = start("lock = FileLock.try_take(layout.gpu_lock, Mode.SHARED)")
    second = start("lock = FileLock.try_take(layout.gpu_lock, Mode.SHARED)")
    holders = LockTable.read().holders(layout.gpu_lock)
    assert {(holder.pid, holder.exclusive) for holder in holders} == {
        (first.pid, False),
        (second.pid, False),
    }
    assert all(holder.command.startswith(sys.executable) for holder in holders)
    assert all(holder.model_id is None for holder in holders)


def test_table_tells_sharing_from_excluding(start: Start, layout: Layout) -> None:
    sharer = start("lock = FileLock.try_take(layout.gpu_lock, Mode.SHARED)")
    assert LockTable.read().held(layout.gpu_lock)
    assert LockTable.read().held(layout.gpu_lock, shared_only=True)
    assert not LockTable.read().held(layout.gpu_lock, exclusive_only=True)
    sharer.kill()
    assert not LockTable.read().held(layout.gpu_lock)
    start("lock = FileLock.try_take(layout.gpu_lock, Mode.EXCLUSIVE)")
    assert LockTable.read().held(layout.gpu_lock, exclusive_only=True)
    assert not LockTable.read().held(layout.gpu_lock, shared_only=True)


def test_table_sees_locks_of_other_programs_and_not_who_waits_for_them(layout: Layout) -> None:
    command = ["flock", "--no-fork", str(layout.gpu_lock), "sleep", "60"]
    with subprocess.Popen(command) as holder, subprocess.Popen(command) as waiter:
        try:
            until(lambda: waited_for(layout.gpu_lock))
            (held,) = LockTable.read().holders(layout.gpu_lock)
            assert held.exclusive
            assert held.pid in (holder.pid, waiter.pid)
            # Whoever got the lock becomes the command a moment later.
            until(lambda: Path(f"/proc/{held.pid}/comm").read_text() == "sleep\n")
            (held,) = LockTable.read().holders(layout.gpu_lock)
            assert held.command == "sleep 60"
        finally:
            holder.kill()
            waiter.kill()


def waited_for(path: Path) -> bool:
    """Whether somebody waits for a lock on the file, whoever else waits on this machine."""
    inode = f":{path.stat().st_ino} " if path.exists() else "none"
    lines = Path("/proc/locks").read_text().splitlines()
    return any("-> FLOCK" in line and inode in line for line in lines)


def test_looking_at_the_table_disturbs_nobody(layout: Layout) -> None:
    # A look that took the lock for an instant would make some of these tries fail.
    program = (
        "import sys; from pathlib import Path\n"
        "from sparkd.adapters.proc.processes import LockTable\n"
        "print('ready', flush=True)\n"
        "while True: LockTable.read().holders(Path(sys.argv[1]))"
    )
    layout.gpu_lock.touch()
    command = [sys.executable, "-c", program, str(layout.gpu_lock)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as looker:
        try:
            assert looker.stdout
            looker.stdout.readline()
            assert all(free(layout.gpu_lock) for _ in range(5000))
        finally:
            looker.kill()


def test_file_that_is_missing_is_held_by_nobody(layout: Layout) -> None:
    assert LockTable.read().holders(layout.gpu_lock) == ()


NURSERY = """
import itertools, json, os, signal
from sparkd.adapters.proc.processes import LockTable

def whole_life():
    lease = leases.try_use(m)
    lease.close()
    transition = asyncio.run(leases.transition(m))
    leases.touch(m)
    lease = leases.use_in_transition(m)
    transition.close()
    lease.close()
    with leases.try_stop(m):
        pass
    with asyncio.run(leases.start()), asyncio.run(leases.drain(m)):
        pass

def live_until(step):
    left = step
    def count(frame, event, argument):
        nonlocal left
        if "/sparkd/" not in frame.f_code.co_filename:
            return None
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return count
    sys.settrace(count)
    whole_life()
    os._exit(0)

whole_life()
for step in itertools.count():
    pid = os.fork()
    if pid == 0:
        live_until(step)
    # The dead process is still there, unwaited for, while its locks must be gone already.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with leases.try_stop(m) or sys.exit(f"not to be stopped after step {step}"):
        pass
    with FileLock.try_take(layout.start_lock, Mode.EXCLUSIVE) or sys.exit(f"start: {step}"):
        pass
    with leases.try_use(m) or sys.exit(f"not to be used after step {step}"):
        pass
    if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
        break
print(json.dumps({"deaths": step}))
"""


def test_death_at_any_line_leaves_no_lock_held(layout: Layout) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + NURSERY, str(layout.runtime_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["deaths"] > 50


def test_stopped_process_keeps_its_locks(start: Start, leases: Leases) -> None:
    """Held means held until death: a debugger or a full disk does not free the GPU."""
    user = start("lease = leases.try_use(m)")
    os.kill(user.pid, signal.SIGSTOP)
    assert leases.try_stop(MODEL) is None
    user.kill()
    assert leases.activity_of(["m"]) == ((False, False),)
