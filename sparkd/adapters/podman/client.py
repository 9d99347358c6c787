# SPDX-License-Identifier: Apache-2.0
"""Rootless Podman through its API socket (podman-py); the only Podman code, and no decisions.

podman-py is synchronous, so every call runs in a thread, and is waited for even when the caller is
cancelled: the cleanup after a cancelled start must not race with the call that it cancelled.
podman-py itself is imported at the first call: it takes a fifth of a second that a warm request
never needs. Podman's State is not the truth about a payload (it says "running" for ever after
conmon was killed): the scope and /proc are.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparkd.core.container.spec import OOM_SCORE_ADJ, TMPFS, ContainerSpec, with_image
from sparkd.core.errors import HostError, NotPresent, room_hint
from sparkd.core.names import LABEL_ENDPOINT, LABEL_HEALTH, LABEL_MODEL, LABEL_SPEC

if TYPE_CHECKING:
    from podman import PodmanClient
    from podman.domain.containers import Container

T = TypeVar("T")

API_TIMEOUT_S = 120.0
"""The API answers in 0.1 s; a first start on a fresh storage was seen to take minutes elsewhere."""
_GO_TIME = re.compile(r"(?P<second>[^.Z+]{19})(?P<fraction>\.\d+)?(?P<zone>Z|[+-]\d\d:\d\d)")
_REMOVE_TRIES = 3
"""Podman 5.4.2 answers 500 to the first forced removal after its conmon was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pids:
    """The processes of an initialised container, in the host's PID namespace."""

    payload: int
    conmon: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What Podman says of itself."""

    version: tuple[int, ...]
    storage_driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerReading:
    """One of our containers as Podman sees it."""

    container_id: str
    name: str
    status: str
    """created, initialized, running, exited, ...; see the module's warning."""
    pid: int
    conmon_pid: int
    exit_code: int
    oom_killed: bool
    started_at: float
    finished_at: float
    model_id: str
    spec_hash: str
    endpoint: str
    health: str
    """Empty for the usual path."""

    @property
    def dead(self) -> bool:
        """Whether its payload has ended and the end is recorded."""
        return self.status in ("exited", "stopped")


@dataclass(frozen=True, slots=True)
class Podman:
    """The Podman service at `api_socket`. Every method raises HostError when it fails.

    `answering` is asked before each call; what it raises ends the call before Podman heard of it.
    """

    api_socket: Path
    answering: Callable[[], Awaitable[None]] | None = None

    async def create(self, spec: ContainerSpec) -> str:
        """Create the container; its id. Raises NotPresent when the image is missing."""
        return await self._call(lambda client: _create(client, spec))

    async def init(self, container_id: str) -> Pids:
        """Make the payload process exist, waiting; its pids."""

        def init(client: PodmanClient) -> Pids:
            container = client.containers.get(container_id)
            container.init()
            state = container.inspect()["State"]
            return Pids(payload=int(state["Pid"]), conmon=int(state["ConmonPid"]))

        return await self._call(init)

    async def start(self, container_id: str) -> None:
        """Let the payload run."""
        await self._call(lambda client: client.containers.get(container_id).start())

    async def stop(self, container_id: str, grace_s: float) -> None:
        """Send the stop signal, and SIGKILL after the grace."""

        def stop(client: PodmanClient) -> None:
            # Container.stop() gives up after 1.5 times the grace, which is less than Podman needs.
            response = client.api.post(
                f"/containers/{container_id}/stop",
                params={"timeout": max(1, round(grace_s))},
                timeout=grace_s + API_TIMEOUT_S,
            )
            response.raise_for_status()

        await self._call(stop)

    async def remove(self, container: str) -> None:
        """Remove a container by id or name, killing it if it runs; a missing one is removed."""

        def remove(client: PodmanClient) -> None:
            from podman.errors import APIError, NotFound

            for attempt in range(1, _REMOVE_TRIES + 1):
                try:
                    client.containers.remove(container, force=True, v=True)
                except NotFound:
                    return
                except APIError:
                    if attempt == _REMOVE_TRIES:
                        raise
                else:
                    return

        await self._call(remove)

    async def inspect(self, container: str) -> ContainerReading | None:
        """One container by id or name, or None when there is no such container."""
        return await self._call(lambda client: _inspected(client, container))

    async def images_present(self, images: Sequence[str]) -> frozenset[str]:
        """Those of these images, as entries name them, that are in this user's storage."""
        return await self._call(
            lambda client: frozenset(name for name in images if client.images.exists(name))
        )

    async def models(self) -> list[ContainerReading]:
        """Every container that carries our label, running or not."""

        def models(client: PodmanClient) -> list[ContainerReading]:
            # One may be removed between the list and the look at it.
            found = (_inspected(client, str(container.id)) for container in _labelled(client))
            return [reading for reading in found if reading is not None]

        return await self._call(models)

    async def image_sizes(self, names: Sequence[str]) -> dict[str, int]:
        """The size in bytes of each of these images that is there."""

        def image_sizes(client: PodmanClient) -> dict[str, int]:
            from podman.errors import ImageNotFound

            found = {}
            for name in names:
                with contextlib.suppress(ImageNotFound):
                    found[name] = int(client.images.get(name).attrs.get("Size") or 0)
            return found

        return await self._call(image_sizes)

    async def info(self) -> Info:
        """Version and storage, from the service itself."""

        def info(client: PodmanClient) -> Info:
            said = client.info()  # type: ignore[no-untyped-call]
            numbers = re.findall(r"\d+", str(said["version"]["Version"]))
            return Info(
                version=tuple(int(number) for number in numbers[:3]),
                storage_driver=str(said["store"]["graphDriverName"]),
            )

        return await self._call(info)

    async def _call(self, work: Callable[[PodmanClient], T]) -> T:
        if self.answering is not None:
            await self.answering()
        try:
            thread = asyncio.get_running_loop().run_in_executor(None, self._work, work)
        except RuntimeError as error:
            raise HostError(
                f"no thread can be made for a call of Podman: {error}",
                hint="sudo systemctl status sparkd shows its tasks and their limit",
            ) from error
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await thread
            raise

    def _work(self, work: Callable[[PodmanClient], T]) -> T:
        with _mapped_errors(self.api_socket):
            from podman import PodmanClient

            base_url = f"http+unix://{self.api_socket}"
            with PodmanClient(base_url=base_url, timeout=API_TIMEOUT_S) as client:
                return work(client)


@contextlib.contextmanager
def _mapped_errors(api_socket: Path) -> Iterator[None]:
    """The one place that turns podman-py's and requests' errors into ours."""
    # Debian 12's requests says of Debian 12's charset_normalizer that it does not fit.
    warnings.filterwarnings("ignore", message=".*doesn't match a supported version")
    import requests
    from podman.errors import APIError, ImageNotFound, PodmanError

    try:
        yield
    except ImageNotFound as error:
        raise _no_image(str(error.explanation or error)) from error
    except APIError as error:
        from sparkd.core.diagnosis.cdi import concerns_cdi

        text = str(error.explanation or error).replace("\n", " ")
        if error.response is None:
            # podman-py's way to say that there was no answer at all.
            raise _unreachable(api_socket, text) from error
        if error.status_code == 404 and "no such image" in text.lower():
            raise _no_image(text) from error
        if concerns_cdi(text):
            raise HostError(
                f"Podman cannot give the GPU to a container: {text}",
                hint="sudo sparkctl doctor names the file and the command that cures it",
                code="cdi_unresolvable",
            ) from error
        full = "no space left on device" in text
        raise HostError(
            f"Podman refused: {text}",
            hint=room_hint("/var/lib/sparkd") if full else "sudo sparkctl doctor",
            code="podman_error",
        ) from error
    except (requests.exceptions.RequestException, PodmanError, OSError) as error:
        raise _unreachable(api_socket, str(error)) from error


def _unreachable(api_socket: Path, why: str) -> HostError:
    return HostError(
        f"cannot reach Podman at {api_socket}: {why}",
        hint="sudo systemctl --user -M sparkd@ status podman.socket",
        code="podman_down",
    )


def _no_image(text: str) -> NotPresent:
    return NotPresent(
        f"image is missing: {text}",
        hint="sudo sparkctl images prints the command that gets it",
        code="image_missing",
    )


def _labelled(client: PodmanClient) -> list[Container]:
    found = client.containers.list(all=True, filters={"label": LABEL_MODEL}, sparse=True)
    return list(found)


def _inspected(client: PodmanClient, container: str) -> ContainerReading | None:
    """One container, or None when it is gone, also when it goes while Podman looks at it."""
    from podman.errors import APIError

    try:
        return _reading(client.containers.get(container).inspect())
    except APIError as error:
        # Podman answers 404, or 500 when it found the id but not the container any more.
        if error.status_code == 404 or "no such container" in str(error.explanation or error):
            return None
        raise


def _create(client: PodmanClient, spec: ContainerSpec) -> str:
    arguments: dict[str, Any] = {
        "name": spec.name,
        "cgroups_mode": "disabled",
        "ipc_mode": "private",
        "shm_size": spec.shm_bytes,
        "read_only": True,
        # Without it Podman 5 makes /dev/shm read-only too, and vLLM dies.
        "read_write_tmpfs": True,
        # Podman 4.3.1 gives its payloads 0, less than the rest of the user's processes has.
        "oom_score_adj": OOM_SCORE_ADJ,
        "cap_drop": ["ALL"],
        "no_new_privileges": True,
        "seccomp_profile_path": spec.seccomp_profile,
        "stop_signal": spec.stop_signal,
        "stop_timeout": spec.stop_timeout_s,
        "labels": dict(spec.labels),
        "environment": with_image(spec, _image_variables(client, spec) if spec.python_path else {}),
        "log_config": {"Type": spec.log_driver},
        "ulimits": [
            {"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard} for limit in spec.ulimits
        ],
        "mounts": [
            {
                "type": "bind",
                "source": mount.source,
                "target": mount.target,
                "read_only": mount.read_only,
            }
            for mount in spec.mounts
        ]
        # Podman 4.3.1 heeds read_write_tmpfs on its command line only.
        + [{"type": "tmpfs", "source": "tmpfs", "target": path, "mode": "1777"} for path in TMPFS],
        "devices": list(spec.devices),
        # An image's own health check would be run by exec from a timer of its own.
        "healthcheck": {"Test": ["NONE"]},
        "restart_policy": {"Name": "no"},
    }
    if not spec.network:
        arguments["network_mode"] = "none"
    if spec.publish_port is not None:
        arguments["ports"] = {"8000/tcp": ("127.0.0.1", spec.publish_port)}
    # An entry point of the image would come before our flock, and its payload would hold no lock.
    arguments["entrypoint"] = [spec.command[0]]
    container = client.containers.create(spec.image, list(spec.command[1:]), **arguments)
    return str(container.id)


def _image_variables(client: PodmanClient, spec: ContainerSpec) -> dict[str, str]:
    """The variables that an image sets. Raises ImageNotFound."""
    config = client.images.get(spec.image).attrs.get("Config") or {}
    return dict(str(one).partition("=")[::2] for one in config.get("Env") or ())


def _reading(attrs: dict[str, Any]) -> ContainerReading:
    state = attrs["State"]
    labels = attrs["Config"].get("Labels") or {}
    return ContainerReading(
        container_id=str(attrs["Id"]),
        name=str(attrs["Name"]),
        status=str(state["Status"]),
        pid=int(state.get("Pid") or 0),
        conmon_pid=int(state.get("ConmonPid") or 0),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        started_at=_timestamp(state.get("StartedAt")),
        finished_at=_timestamp(state.get("FinishedAt")),
        model_id=str(labels.get(LABEL_MODEL, "")),
        spec_hash=str(labels.get(LABEL_SPEC, "")),
        endpoint=str(labels.get(LABEL_ENDPOINT, "")),
        health=str(labels.get(LABEL_HEALTH, "")),
    )


def _timestamp(text: str | None) -> float:
    """Wall time of Go's RFC 3339 with nanoseconds; 0.0 for Go's zero time."""
    match = _GO_TIME.fullmatch(text or "")
    if match is None or match["second"].startswith("0001-"):
        return 0.0
    zone = match["zone"].replace("Z", "+00:00")
    fraction = float(match["fraction"] or 0)
    return datetime.fromisoformat(match["second"] + zone).timestamp() + fraction
