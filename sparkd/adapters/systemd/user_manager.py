# SPDX-License-Identifier: Apache-2.0
"""The user manager of systemd over D-Bus (org.freedesktop.systemd1(5)); the only D-Bus code.

One connection an operation: it costs two milliseconds, is needed for starts, stops and readings
only, and cannot be stale after the bus or the manager was restarted. A job is waited for by
subscribing to JobRemoved before asking, so a job that is done at once is not missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbus_fast import AuthError, BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from sparkd.core.container.units import Property
from sparkd.core.errors import HostError

log = logging.getLogger(__name__)

_DESTINATION = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
_UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
_CALL_TIMEOUT_S = 10.0
"""For one reply; the manager answers in milliseconds unless it is stuck."""
_INFINITY_US = (1 << 64) - 1
_JOB_SLACK_S = 10.0
_CONNECT_PATIENCE_S = 15.0
"""A lingering user manager may still be starting when the first request after a boot arrives."""
_CONNECT_PAUSE_S = 0.25
_COLLECT_PATIENCE_S = 3.0
_COLLECT_PAUSE_S = 0.05
_JOB_HINT = (
    "sudo journalctl _UID=$(id -u sparkd) -n 50 tells why; where a process could not be moved: "
    "sudo systemctl restart user@$(id -u sparkd)"
)
"""The latter was once seen after the bus of the system had been restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    name: str
    active: bool
    """Active or on the way to or from it: its processes may exist."""
    failed: bool = False


class SystemdCallError(HostError):
    """systemd refused a call; `name` is the D-Bus error name."""

    def __init__(self, name: str, message: str) -> None:
        hint = "sudo journalctl _UID=$(id -u sparkd) -n 50"
        super().__init__(message, hint=hint, code="systemd_error")
        self.name = name


class UnitActive(SystemdCallError):
    """There is a unit of this name, and it has not ended."""


@dataclass(frozen=True, slots=True)
class UserManager:
    """The service manager of the user whose bus listens at `bus_socket`.

    Every method raises HostError when the bus cannot be reached, SystemdCallError when systemd
    refuses.
    """

    bus_socket: Path

    async def units(self, patterns: Sequence[str]) -> list[Unit]:
        """The loaded units whose names match one of the glob patterns."""
        async with self._connection() as bus:
            body = await _call(bus, "ListUnitsByPatterns", "asas", [[], list(patterns)])
        return [
            Unit(
                name=unit[0],
                active=unit[3] not in ("inactive", "failed"),
                failed=unit[3] == "failed",
            )
            for unit in (body[0] if body else ())
        ]

    async def start_transient(self, name: str, properties: Sequence[Property]) -> None:
        """Create a transient unit and wait until its start job is done.

        One of the same name that has ended is loaded until systemd collects it: that is waited for.
        systemd never collects a failed one that it was told to keep, so that is reset. Raises
        UnitActive at once when there is one that has not ended.
        """
        typed = [[key, Variant(signature, value)] for key, signature, value in properties]
        body = [name, "fail", typed, []]
        deadline = asyncio.get_running_loop().time() + _COLLECT_PATIENCE_S
        while True:
            try:
                async with self._connection() as bus:
                    return await _job(bus, "StartTransientUnit", "ssa(sv)a(sa(sv))", body)
            except SystemdCallError as error:
                if error.name != _UNIT_EXISTS:
                    raise
                there = await self.units([name])
                if any(unit.active for unit in there):
                    raise UnitActive(error.name, error.message) from error
                if any(unit.failed for unit in there):
                    await self._reset(name)
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_COLLECT_PAUSE_S)

    async def _reset(self, name: str) -> None:
        """Have systemd forget that a unit failed, and the unit with it."""
        with contextlib.suppress(SystemdCallError):
            async with self._connection() as bus:
                await _call(bus, "ResetFailedUnit", "s", [name])
            log.warning("unit %s had failed and stayed loaded: it was reset", name)

    async def start(self, name: str) -> None:
        """Start a unit and wait until that is done."""
        async with self._connection() as bus:
            await _job(bus, "StartUnit", "ss", [name, "replace"])

    async def start_soon(self, name: str) -> None:
        """Have a unit started, and do not wait for that."""
        async with self._connection() as bus:
            await _call(bus, "StartUnit", "ss", [name, "replace"])

    async def stop(self, name: str, timeout_s: float = 0.0) -> None:
        """Stop a unit and wait until it is gone; a unit that does not exist is stopped.

        `timeout_s` is how long the unit's own stop may take.
        """
        async with self._connection() as bus:
            try:
                await _job(bus, "StopUnit", "ss", [name, "replace"], timeout_s)
            except SystemdCallError as error:
                if error.name != _NO_SUCH_UNIT:
                    raise
                return
        # A failed one that systemd was told to keep would be in the way of the next one.
        if any(unit.failed for unit in await self.units([name])):
            await self._reset(name)

    async def kill(self, name: str) -> None:
        """Send SIGKILL to every process of a unit; one that does not exist is dead."""
        async with self._connection() as bus:
            try:
                await _call(bus, "KillUnit", "ssi", [name, "all", signal.SIGKILL])
            except SystemdCallError as error:
                if error.name != _NO_SUCH_UNIT:
                    raise

    async def next_elapse_us(self, timer: str) -> int | None:
        """When a loaded timer elapses next, on CLOCK_MONOTONIC in microseconds."""
        async with self._connection() as bus:
            try:
                path = (await _call(bus, "GetUnit", "s", [timer]))[0]
                body = await _get(bus, path, "Timer", "NextElapseUSecMonotonic")
            except SystemdCallError:
                return None
        # A timer that has fired says infinity, all ones, until its service has ended.
        return None if int(body) >= _INFINITY_US else int(body)

    async def invocation(self, name: str) -> str:
        """Which start of a unit this is, a new word for each; empty for one that is not loaded."""
        async with self._connection() as bus:
            try:
                path = (await _call(bus, "GetUnit", "s", [name]))[0]
                return bytes(await _get(bus, path, "Unit", "InvocationID")).hex()
            except SystemdCallError:
                return ""

    async def control_group(self, scope: str) -> str | None:
        """The cgroup path of an active scope."""
        async with self._connection() as bus:
            try:
                path = (await _call(bus, "GetUnit", "s", [scope]))[0]
                return str(await _get(bus, path, "Scope", "ControlGroup"))
            except SystemdCallError:
                return None

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[MessageBus]:
        bus = await self._connect()
        try:
            yield bus
        finally:
            await _close(bus)

    async def _connect(self) -> MessageBus:
        deadline = asyncio.get_running_loop().time() + _CONNECT_PATIENCE_S
        while True:
            try:
                # Making it opens the socket already.
                address = f"unix:path={self.bus_socket}"
                bus = MessageBus(bus_type=BusType.SESSION, bus_address=address)
                try:
                    async with asyncio.timeout(_CALL_TIMEOUT_S):
                        return await bus.connect()
                except BaseException:
                    _abandon(bus)
                    raise
            except (OSError, EOFError, TimeoutError, AuthError) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise HostError(
                        f"cannot reach the user manager's bus at {self.bus_socket}: {error}",
                        hint="sudo loginctl enable-linger sparkd && "
                        "systemctl status 'user@*.service'",
                        code="user_manager_down",
                    ) from error
            await asyncio.sleep(_CONNECT_PAUSE_S)


async def _close(bus: MessageBus) -> None:
    """End the connection, and its descriptor with it.

    dbus-fast leaves the descriptor to the garbage collector, which may come after hundreds of
    operations.
    """
    bus.disconnect()
    with contextlib.suppress(OSError, EOFError, TimeoutError):
        # Not sooner: until then the event loop watches the descriptor by its number.
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
    if bus._stream is not None:
        with contextlib.suppress(OSError):
            bus._stream.close()


def _abandon(bus: MessageBus) -> None:
    """Close what dbus-fast leaves open, and watched by the loop, when it cannot connect."""
    if bus._sock is None or bus._stream is None:
        return
    asyncio.get_running_loop().remove_reader(bus._sock)
    bus._sock.close()
    with contextlib.suppress(OSError):
        bus._stream.close()


async def _call(bus: MessageBus, member: str, signature: str, body: list[Any]) -> list[Any]:
    message = Message(
        destination=_DESTINATION,
        path=_PATH,
        interface=_MANAGER,
        member=member,
        signature=signature,
        body=body,
    )
    return await _send(bus, message)


async def _get(bus: MessageBus, path: str, interface: str, name: str) -> Any:  # noqa: ANN401
    message = Message(
        destination=_DESTINATION,
        path=path,
        interface="org.freedesktop.DBus.Properties",
        member="Get",
        signature="ss",
        body=[f"{_DESTINATION}.{interface}", name],
    )
    return (await _send(bus, message))[0].value


async def _send(bus: MessageBus, message: Message) -> list[Any]:
    try:
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            reply = await bus.call(message)
    except (OSError, EOFError, TimeoutError) as error:
        raise HostError(
            f"the user manager of sparkd did not answer {message.member}: {error!r}",
            hint="sudo sparkctl doctor",
            code="user_manager_down",
        ) from error
    if reply is None:
        raise HostError(f"systemd gave no reply to {message.member}", code="user_manager_down")
    if reply.message_type is MessageType.ERROR:
        text = reply.body[0] if reply.body else "no text"
        raise SystemdCallError(
            reply.error_name or "",
            f"the user manager of sparkd refused {message.member} {message.body[:1]}: {text}",
        )
    return reply.body


async def _job(
    bus: MessageBus, member: str, signature: str, body: list[Any], timeout_s: float = 0.0
) -> None:
    """Ask for a job and wait for its end. Raises HostError when it did not end as "done"."""
    results: dict[str, str] = {}
    removed = asyncio.Event()

    def note(message: Message) -> bool:
        if message.member == "JobRemoved":
            results[message.body[1]] = message.body[3]
            removed.set()
        return False

    bus.add_message_handler(note)
    await _subscribe(bus)
    job = (await _call(bus, member, signature, body))[0]
    gone = asyncio.shield(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
    gone.add_done_callback(lambda _: removed.set())
    try:
        async with asyncio.timeout(timeout_s + _JOB_SLACK_S):
            while job not in results:
                if gone.done():
                    raise HostError(
                        f"the user manager's bus broke off during {member} of {body[0]}",
                        code="user_manager_down",
                    ) from gone.exception()
                removed.clear()
                await removed.wait()
    except TimeoutError as error:
        raise HostError(
            f"{member} of {body[0]} did not end within {timeout_s + _JOB_SLACK_S:g} s",
            hint=_JOB_HINT,
        ) from error
    finally:
        gone.cancel()
    if results[job] != "done":
        raise HostError(
            f"{member} of {body[0]} ended as {results[job]!r}",
            hint=_JOB_HINT,
            code="systemd_error",
        )


async def _subscribe(bus: MessageBus) -> None:
    await _call(bus, "Subscribe", "", [])
    rule = f"type='signal',sender='{_DESTINATION}',interface='{_MANAGER}',member='JobRemoved'"
    await _send(
        bus,
        Message(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member="AddMatch",
            signature="s",
            body=[rule],
        ),
    )
