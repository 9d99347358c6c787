# SPDX-License-Identifier: Apache-2.0
"""Our D-Bus code against a real bus of its own, on which a stand-in for systemd answers.

What systemd itself does with units is seen on booted hosts; here it is what can go wrong between.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from sparkd.adapters.podman.client import Podman
from sparkd.adapters.systemd import user_manager
from sparkd.adapters.systemd.user_manager import SystemdCallError, Unit, UnitActive, UserManager
from sparkd.core.errors import HostError
from sparkd.core.names import Layout, Names
from sparkd.lifecycle.start.launcher import Launcher

pytestmark = [
    pytest.mark.integration,
    # dbus-fast leaves the socket of a connection that failed to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
JOB = f"{PATH}/job/7"
NO_SUCH_UNIT = f"{NAME}.NoSuchUnit"


class Bus:
    """A dbus-daemon of our own."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._daemon: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        program = shutil.which("dbus-daemon")
        if program is None:
            missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            missing("dbus-daemon is missing")
        self._daemon = await asyncio.create_subprocess_exec(
            *(program, "--session", "--nofork", "--nopidfile", "--print-address"),
            f"--address=unix:path={self.socket}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._daemon.stdout
        await self._daemon.stdout.readline()

    async def kill(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            await self._daemon.communicate()
            self._daemon = None


Answer = Callable[[Message], list[Message]]


class Systemd:
    """Answers calls as a test says: by member, with the messages that go out, in their order."""

    def __init__(self, connection: MessageBus) -> None:
        self.calls: list[Message] = []
        self.answers: dict[str, Answer] = {}
        self._connection = connection
        connection.add_message_handler(self._handle)

    def _handle(self, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL or message.path is None:
            return False
        if not message.path.startswith(PATH):
            return False
        self.calls.append(message)
        answer = self.answers.get(message.member or "", lambda call: [reply(call)])
        for outgoing in answer(message):
            self.say(outgoing)
        return True

    def say(self, message: Message) -> None:
        self._connection.send(message)

    def asked(self, member: str) -> list[Any]:
        """The body of the one call of this member."""
        (call,) = (call for call in self.calls if call.member == member)
        body: list[Any] = call.body
        return body


def reply(call: Message, signature: str = "", *body: object) -> Message:
    return Message.new_method_return(call, signature, list(body))


def refusal(name: str, text: str) -> Answer:
    return lambda call: [Message.new_error(call, name, text)]


def job_removed(job: str = JOB, result: str = "done") -> Message:
    return Message.new_signal(
        PATH, f"{NAME}.Manager", "JobRemoved", "uoss", [7, job, "a.service", result]
    )


def silence(call: Message) -> list[Message]:
    return []


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test left to the garbage collector is collected where the mark above holds."""
    yield
    gc.collect()


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    bus = Bus(tmp_path / "bus")
    await bus.start()
    yield bus
    await bus.kill()


@pytest.fixture
async def manager(bus: Bus) -> AsyncIterator[Systemd]:
    """The stand-in; a job that it is asked for is done at once."""
    address = f"unix:path={bus.socket}"
    connection = await MessageBus(bus_type=BusType.SESSION, bus_address=address).connect()
    manager = Systemd(connection)
    for member in ("StartTransientUnit", "StopUnit"):
        manager.answers[member] = lambda call: [reply(call, "o", JOB), job_removed()]
    await connection.request_name(NAME)
    yield manager
    connection.disconnect()


@pytest.fixture
def ours(bus: Bus) -> UserManager:
    return UserManager(bus.socket)


async def asked_for(manager: Systemd, member: str) -> None:
    """Wait until the manager has had such a call, and has answered it."""
    async with asyncio.timeout(60):
        while member not in [call.member for call in manager.calls]:
            await asyncio.sleep(0.01)


async def test_properties_arrive_with_the_types_that_systemd_wants(
    manager: Systemd, ours: UserManager
) -> None:
    properties = [
        ("Slice", "s", "sparkd.slice"),
        ("PIDs", "au", [1, 2]),
        ("TimersMonotonic", "a(st)", [("OnActiveSec", 5_000_000_000)]),
    ]
    await ours.start_transient("a.scope", properties)
    name, mode, typed, auxiliary = manager.asked("StartTransientUnit")
    assert (name, mode, auxiliary) == ("a.scope", "fail", [])
    assert [(key, value.signature) for key, value in typed] == [(k, s) for k, s, _ in properties]
    assert typed[2][1].value == [["OnActiveSec", 5_000_000_000]]


async def test_job_that_ends_before_its_reply_is_read_is_not_missed(
    manager: Systemd, ours: UserManager
) -> None:
    manager.answers["StopUnit"] = lambda call: [job_removed(), reply(call, "o", JOB)]
    async with asyncio.timeout(60):
        await ours.stop("a.service")
    # It was subscribed before it asked: otherwise such an end would not be sent at all.
    members = [call.member for call in manager.calls]
    assert members.index("Subscribe") < members.index("StopUnit")


async def test_job_is_waited_for_among_the_ends_of_others(
    manager: Systemd, ours: UserManager
) -> None:
    manager.answers["StopUnit"] = lambda call: [
        job_removed(f"{PATH}/job/6", "failed"),
        reply(call, "o", JOB),
        job_removed(f"{PATH}/job/8", "failed"),
    ]
    stopping = asyncio.create_task(ours.stop("a.service"))
    await asked_for(manager, "StopUnit")
    await asyncio.sleep(0.1)
    assert not stopping.done()
    manager.say(job_removed())
    async with asyncio.timeout(60):
        await stopping


@pytest.mark.parametrize("result", ["failed", "canceled", "timeout", "dependency", "skipped"])
async def test_job_that_did_not_succeed_is_an_error_with_its_result(
    manager: Systemd, ours: UserManager, result: str
) -> None:
    manager.answers["StopUnit"] = lambda call: [
        reply(call, "o", JOB),
        job_removed(result=result),
    ]
    with pytest.raises(HostError, match=rf"StopUnit of a\.service ended as '{result}'"):
        await ours.stop("a.service")


async def test_job_that_never_ends_is_given_up_after_the_time_of_the_unit(
    manager: Systemd, ours: UserManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_manager, "_JOB_SLACK_S", 0.3)
    manager.answers["StopUnit"] = lambda call: [reply(call, "o", JOB)]
    began_s = time.monotonic()
    with pytest.raises(HostError, match=r"StopUnit of a\.service did not end within 0\.6 s"):
        await ours.stop("a.service", timeout_s=0.3)
    assert time.monotonic() - began_s >= 0.6


async def test_refused_call_says_what_was_refused_and_why(
    manager: Systemd, ours: UserManager
) -> None:
    manager.answers["StartTransientUnit"] = refusal(f"{NAME}.BadUnitSetting", "it is no scope")
    with pytest.raises(SystemdCallError, match="it is no scope") as caught:
        await ours.start_transient("a.scope", [])
    assert "a.scope" in caught.value.message
    assert (caught.value.name, caught.value.code) == (f"{NAME}.BadUnitSetting", "systemd_error")


def there_is(name: str, state: str) -> Answer:
    """An answer that lists one unit."""
    unit = [name, "", "loaded", state, "running", "", PATH, 0, "", "/"]
    return lambda call: [reply(call, "a(ssssssouso)", [unit])]


async def test_unit_that_is_active_is_told_at_once(manager: Systemd, ours: UserManager) -> None:
    manager.answers["StartTransientUnit"] = refusal(f"{NAME}.UnitExists", "it is there already")
    manager.answers["ListUnitsByPatterns"] = there_is("a.scope", "active")
    began_s = time.monotonic()
    with pytest.raises(UnitActive, match="it is there already") as caught:
        await ours.start_transient("a.scope", [])
    assert time.monotonic() - began_s < user_manager._COLLECT_PATIENCE_S
    assert caught.value.code == "systemd_error"


async def test_timer_that_another_process_set_meanwhile_will_do(
    manager: Systemd, ours: UserManager, tmp_path: Path
) -> None:
    manager.answers["StartTransientUnit"] = refusal(f"{NAME}.UnitExists", "it is there already")
    manager.answers["ListUnitsByPatterns"] = there_is("sparkd-idle@m.timer", "active")
    layout = Layout(runtime_dir=tmp_path, state_dir=tmp_path)
    launcher = Launcher(layout=layout, systemd=ours, podman=Podman(tmp_path / "none"))
    await launcher.arm_idle_timer(Names("m"), 4.0)
    assert manager.asked("StartTransientUnit")[0] == "sparkd-idle@m.timer"


async def test_unit_that_has_ended_and_is_not_collected_yet_is_waited_for(
    manager: Systemd, ours: UserManager
) -> None:
    later = {"StartTransientUnit": manager.answers["StartTransientUnit"]}
    manager.answers["StartTransientUnit"] = refusal(f"{NAME}.UnitExists", "it is there still")
    manager.answers["ListUnitsByPatterns"] = there_is("a.scope", "inactive")
    began_s = time.monotonic()
    asyncio.get_running_loop().call_later(0.3, manager.answers.update, later)
    await ours.start_transient("a.scope", [])
    assert time.monotonic() - began_s >= 0.3


async def test_unit_that_does_not_exist_is_stopped_and_dead(
    manager: Systemd, ours: UserManager
) -> None:
    for member in ("StopUnit", "KillUnit"):
        manager.answers[member] = refusal(NO_SUCH_UNIT, "not loaded")
    await ours.stop("a.service")
    await ours.kill("a.service")


async def test_stop_and_kill_that_are_refused_for_another_reason_are_errors(
    manager: Systemd, ours: UserManager
) -> None:
    for member in ("StopUnit", "KillUnit"):
        manager.answers[member] = refusal("org.freedesktop.DBus.Error.AccessDenied", "no")
    with pytest.raises(SystemdCallError):
        await ours.stop("a.service")
    with pytest.raises(SystemdCallError):
        await ours.kill("a.service")


async def test_unit_exists_as_long_as_its_processes_may(
    manager: Systemd, ours: UserManager
) -> None:
    states = {
        "active": True,
        "activating": True,
        "deactivating": True,
        "reloading": True,
        "inactive": False,
        "failed": False,
    }

    def listed(call: Message) -> list[Message]:
        units = [
            [f"{state}.scope", "", "loaded", state, "running", "", PATH, 0, "", "/"]
            for state in states
        ]
        return [reply(call, "a(ssssssouso)", units)]

    manager.answers["ListUnitsByPatterns"] = listed
    assert await ours.units(["*.scope"]) == [
        Unit(name=f"{state}.scope", active=active, failed=state == "failed")
        for state, active in states.items()
    ]
    assert manager.asked("ListUnitsByPatterns") == [[], ["*.scope"]]


async def test_time_of_a_timer_and_cgroup_of_a_scope_are_read(
    manager: Systemd, ours: UserManager
) -> None:
    values = {
        f"{NAME}.Timer": Variant("t", 17_000_000),
        f"{NAME}.Scope": Variant("s", "/user.slice/a.scope"),
    }
    manager.answers["GetUnit"] = lambda call: [reply(call, "o", f"{PATH}/unit/a")]
    manager.answers["Get"] = lambda call: [reply(call, "v", values[call.body[0]])]
    assert await ours.next_elapse_us("a.timer") == 17_000_000
    assert await ours.control_group("a.scope") == "/user.slice/a.scope"


async def test_unit_that_does_not_exist_has_neither(manager: Systemd, ours: UserManager) -> None:
    manager.answers["GetUnit"] = refusal(NO_SUCH_UNIT, "not loaded")
    assert await ours.next_elapse_us("a.timer") is None
    assert await ours.control_group("a.scope") is None


def is_down(error: HostError) -> bool:
    return error.code == "user_manager_down"


async def test_manager_that_does_not_answer_is_down(
    manager: Systemd, ours: UserManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bus itself, which is asked first, has as long.
    monkeypatch.setattr(user_manager, "_CALL_TIMEOUT_S", 2.0)
    manager.answers["ListUnitsByPatterns"] = silence
    with pytest.raises(HostError, match="did not answer ListUnitsByPatterns") as caught:
        await ours.units(["*"])
    assert is_down(caught.value)


async def test_bus_without_a_manager_is_an_error(ours: UserManager) -> None:
    with pytest.raises(HostError, match="ListUnitsByPatterns"):
        await ours.units(["*"])


async def test_bus_that_dies_during_a_call_is_an_error_at_once(
    bus: Bus, manager: Systemd, ours: UserManager
) -> None:
    manager.answers["ListUnitsByPatterns"] = silence
    asking = asyncio.create_task(ours.units(["*"]))
    await asked_for(manager, "ListUnitsByPatterns")
    await bus.kill()
    async with asyncio.timeout(60):
        with pytest.raises(HostError) as caught:
            await asking
    assert is_down(caught.value)


async def test_bus_that_dies_during_a_job_is_an_error_at_once(
    bus: Bus, manager: Systemd, ours: UserManager
) -> None:
    manager.answers["StopUnit"] = lambda call: [reply(call, "o", JOB)]
    stopping = asyncio.create_task(ours.stop("a.service", timeout_s=60))
    await asked_for(manager, "StopUnit")
    await asyncio.sleep(0.1)
    await bus.kill()
    async with asyncio.timeout(60):
        with pytest.raises(HostError) as caught:
            await stopping
    assert is_down(caught.value)


async def test_bus_that_is_not_there_is_an_error_with_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_manager, "_CONNECT_PATIENCE_S", 0.3)
    with pytest.raises(HostError, match="cannot reach the user manager's bus at") as caught:
        await UserManager(tmp_path / "none").units(["*"])
    assert is_down(caught.value)
    assert "enable-linger" in caught.value.hint


async def test_bus_that_is_only_starting_is_waited_for(tmp_path: Path) -> None:
    """The first request after a boot may come before the user manager's bus."""
    bus = Bus(tmp_path / "late")
    asking = asyncio.create_task(UserManager(bus.socket).units(["*"]))
    await asyncio.sleep(0.3)
    await bus.start()
    try:
        with pytest.raises(SystemdCallError):
            await asking
    finally:
        await bus.kill()


async def test_bus_that_was_started_anew_is_used_again(
    bus: Bus, manager: Systemd, ours: UserManager
) -> None:
    await ours.stop("a.service")
    await bus.kill()
    bus.socket.unlink(missing_ok=True)
    await bus.start()
    address = f"unix:path={bus.socket}"
    connection = await MessageBus(bus_type=BusType.SESSION, bus_address=address).connect()
    second = Systemd(connection)
    second.answers = manager.answers
    await connection.request_name(NAME)
    await ours.stop("b.service")
    assert second.asked("StopUnit")[0] == "b.service"
    connection.disconnect()


async def test_descriptor_of_every_connection_is_given_back_at_once(
    manager: Systemd, ours: UserManager
) -> None:
    manager.answers["KillUnit"] = lambda call: [reply(call)]
    gc.collect()
    before = os.listdir("/proc/self/fd")
    gc.disable()
    try:
        for _ in range(3):
            await ours.stop("a.service")
            await ours.kill("a.service")
        # At once is as soon as the loop has turned; nothing is left to the garbage collector.
        async with asyncio.timeout(60):
            while len(os.listdir("/proc/self/fd")) > len(before):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


@pytest.mark.parametrize("said", [b"", b"ERROR\r\n", b"OK 0123456789abcdef0123456789abcdef\r\n"])
async def test_bus_that_cannot_be_spoken_to_keeps_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Before it has let us in, without doing so, and after."""
    monkeypatch.setattr(user_manager, "_CALL_TIMEOUT_S", 0.5)
    monkeypatch.setattr(user_manager, "_CONNECT_PATIENCE_S", 0.0)
    heard: list[bytes] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.read(4096):
            heard.append(line)
            writer.write(said if len(heard) == 1 else b"")
        writer.close()

    server = await asyncio.start_unix_server(hang, tmp_path / "bus")
    gc.collect()
    gc.disable()
    try:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(HostError) as caught:
            await UserManager(tmp_path / "bus").units(["*"])
        assert is_down(caught.value)
        assert (b"BEGIN" in b"".join(heard)) == said.startswith(b"OK")
        async with asyncio.timeout(60):
            while len(os.listdir("/proc/self/fd")) > len(before):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
        server.close()
