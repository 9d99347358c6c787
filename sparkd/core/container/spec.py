# SPDX-License-Identifier: Apache-2.0
"""From a catalog entry to the complete container: its command, mounts, limits and environment.

Pure: the Podman adapter only translates the result. Whatever is part of `ContainerSpec` is part of
the spec hash, by which a running container is recognised as still wanted after a restart of the
daemon or a change of the configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import assert_never

from sparkd.core.model import (
    HEALTH_PATH,
    Evict,
    Lifecycle,
    ModelSpec,
    Placeholder,
    Transport,
    Weights,
)
from sparkd.core.names import LABEL_ENDPOINT, LABEL_HEALTH, LABEL_MODEL, LABEL_SPEC, Layout, Names
from sparkd.core.numbers import bounded_int
from sparkd.core.observed import Endpoint
from sparkd.core.weights.hub_cache import mount_root

EXIT_GPU_TAKEN = 75
"""The exit code of `flock -E` when the lock is held (EX_TEMPFAIL of sysexits.h)."""

SIGINT = 2
"""vLLM as PID 1 ignores SIGTERM until its handlers are set; SIGINT ends it at any time."""

INSIDE_ENDPOINT = Path("/run/sparkd/endpoint")
INSIDE_GPU_LOCK = Path("/run/sparkd/gpu.lock")
INSIDE_LANE_LOCK = Path("/run/sparkd/lane.lock")
INSIDE_CACHE = Path("/cache")
CDI_DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""The directories in which Podman looks for descriptions of GPUs."""
IN_CONTAINER_CODE = Path("/run/sparkd/inside")
INSIDE_TCP_PORT = 8000

LOGGING_ARGS = ("--disable-uvicorn-access-log",)
"""The daemon logs each request itself, and its own looks at /health and /metrics are no news.

vLLM logs no prompts unless it is told to, which entries may not; its statistics stay on, because
the daemon sees by them that an engine hangs.
"""

SECCOMP_PROFILE = Path(__file__).resolve().parents[1] / "seccomp.json"
"""The calls of the kernel that a model may make. With Podman's own list every process may become
root of a namespace of users, and so reach most of what capabilities guard in the kernel."""

SLEEP_ARGS = ("--enable-sleep-mode", "--middleware", "sparkd_sleep.SleepRoutes")
"""Of a model that may sleep; the middleware is `sparkd/in_container/sparkd_sleep.py`."""

OOM_SCORE_ADJ = 200
"""As much as systemd gives the services of a user, and far more than sparkd.service has."""

TMPFS = ("/run", "/tmp", "/var/tmp")
"""What a program may expect to be able to write, on a root that is read-only."""

_STACK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind mount; `source` is a path of the host."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit:
    """Named as Podman wants it: `stack`, not RLIMIT_STACK."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """All that Podman is told about one model's container."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    """Replaces variables of the same name that the image sets."""
    labels: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]
    devices: tuple[str, ...]
    ulimits: tuple[Ulimit, ...]
    shm_bytes: int
    network: bool
    publish_port: int | None
    stop_signal: int
    stop_timeout_s: int
    log_driver: str
    """Where what it prints goes: to the journal, or nowhere."""
    seccomp_profile: str
    python_path: str = ""
    """Goes before the PYTHONPATH of the environment, or else before that of the image, which the
    image may need to find its engine."""


def spec_hash(spec: ModelSpec, layout: Layout) -> str:
    """Twelve hex digits over all that `container_spec` says but the port and its own labels."""
    return _hash(_unlabelled(spec, layout, port=None))


def container_spec(
    spec: ModelSpec,
    layout: Layout,
    *,
    port: int | None = None,
    extra_args: tuple[str, ...] = (),
) -> ContainerSpec:
    """The container of a model; `port` is the free port of 127.0.0.1 for `transport: tcp`.

    `extra_args` end the command line; they depend on the moment, so the spec hash leaves them out.
    """
    unlabelled = _unlabelled(spec, layout, port)
    labels = (
        (LABEL_MODEL, spec.model_id),
        (LABEL_SPEC, spec_hash(spec, layout)),
        (LABEL_ENDPOINT, str(endpoint_of(spec, layout, port))),
        *unlabelled.labels,
    )
    command = unlabelled.command + extra_args
    return replace(unlabelled, labels=labels, command=command)


def endpoint_of(spec: ModelSpec, layout: Layout, port: int | None) -> Endpoint:
    """Where the model will listen, seen from the host."""
    health = spec.engine.health if spec.engine else HEALTH_PATH
    if spec.transport is Transport.TCP:
        return Endpoint(port=port, health=health)
    return Endpoint(socket=layout.endpoint_socket(Names(spec.model_id)), health=health)


def parse_endpoint(label: str, health: str = "") -> Endpoint:
    """Undo `str(Endpoint)`, as the label carries it; `health` is a label of its own."""
    scheme, _, rest = label.partition(":")
    if scheme == "tcp":
        # A label that names no port names a server that cannot be reached.
        port = bounded_int(rest.rpartition(":")[2], most=65535)
        return Endpoint(port=port, health=health or HEALTH_PATH)
    return Endpoint(socket=Path(rest), health=health or HEALTH_PATH)


def lock_command(lifecycle: Lifecycle) -> tuple[str, ...]:
    """The flock(1) wrappers that make a lifecycle class a lock mode and nothing else.

    `--no-fork` makes the payload itself inherit the descriptor, so the kernel frees the lock
    exactly when the payload is dead.
    """

    def flock(mode: str, path: Path) -> tuple[str, ...]:
        return ("flock", "--no-fork", "-n", "-E", str(EXIT_GPU_TAKEN), mode, str(path))

    match lifecycle:
        case Lifecycle.UTILITY:
            return flock("-s", INSIDE_GPU_LOCK)
        case Lifecycle.NORMAL:
            return flock("-s", INSIDE_GPU_LOCK) + flock("-x", INSIDE_LANE_LOCK)
        case Lifecycle.EXCLUSIVE:
            return flock("-x", INSIDE_GPU_LOCK) + flock("-x", INSIDE_LANE_LOCK)
        case _:
            assert_never(lifecycle)


def _unlabelled(spec: ModelSpec, layout: Layout, port: int | None) -> ContainerSpec:
    names = Names(spec.model_id)
    health = endpoint_of(spec, layout, port).health
    return ContainerSpec(
        name=names.container,
        image=spec.image,
        command=lock_command(spec.lifecycle) + _serve_command(spec),
        environment=_environment(spec),
        labels=((LABEL_HEALTH, health),) if health != HEALTH_PATH else (),
        mounts=_mounts(spec, layout, names),
        devices=(f"nvidia.com/gpu={spec.gpu}",) if spec.gpu else (),
        ulimits=_ulimits(spec),
        shm_bytes=spec.shm_bytes,
        network=spec.network or spec.transport is Transport.TCP,
        publish_port=port if spec.transport is Transport.TCP else None,
        stop_signal=SIGINT,
        stop_timeout_s=max(1, round(spec.stop_grace_s)),
        log_driver="journald" if spec.log_output else "none",
        seccomp_profile=str(SECCOMP_PROFILE),
        python_path=str(IN_CONTAINER_CODE) if spec.evict is Evict.SLEEP else "",
    )


def _serve_command(spec: ModelSpec) -> tuple[str, ...]:
    served = _served_weights(spec)
    port, socket = str(INSIDE_TCP_PORT), str(INSIDE_ENDPOINT / "api.sock")
    if spec.engine is not None:
        decided = {
            Placeholder.WEIGHTS: served,
            Placeholder.MODEL: spec.model_id,
            Placeholder.PORT: port,
            Placeholder.SOCKET: socket,
        }
        return tuple(_filled(word, decided) for word in spec.engine.command) + spec.args
    tcp = spec.transport is Transport.TCP
    listen = ("--host", "0.0.0.0", "--port", port) if tcp else ("--uds", socket)
    name = ("--served-model-name", spec.model_id)
    sleep = SLEEP_ARGS if spec.evict is Evict.SLEEP else ()
    lora = _adapter_args(spec)
    return ("vllm", "serve", served, *name, *listen, *LOGGING_ARGS, *sleep, *lora, *spec.args)


def _adapter_args(spec: ModelSpec) -> tuple[str, ...]:
    """vLLM serves each adapter under its name: docs.vllm.ai, "LoRA adapters"."""
    if not spec.adapters:
        return ()
    modules = (f"{one.name}={_seen_at(one.name, one.weights)}" for one in spec.adapters)
    return ("--enable-lora", "--lora-modules", *modules)


def _filled(word: str, decided: Mapping[Placeholder, str]) -> str:
    for placeholder, value in decided.items():
        word = word.replace(placeholder, value)
    return word


def _served_weights(spec: ModelSpec) -> str:
    """The weights as the server names them: the mounted directory, or a snapshot below it."""
    if spec.weights is None:
        return spec.model_id
    return str(_seen_at(spec.model_id, spec.weights))


def _seen_at(name: str, weights: Weights) -> Path:
    """The weights in the container: a mounted directory, or a snapshot below it."""
    return _mounted_at(name) / weights.path.relative_to(mount_root(weights.path))


def _mounted_at(name: str) -> Path:
    return Path("/models", Names(name).escaped)


def _environment(spec: ModelSpec) -> tuple[tuple[str, str], ...]:
    decided = {
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "HF_HOME": f"{INSIDE_CACHE}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": f"{INSIDE_CACHE}/vllm",
        # FlashInfer compiles kernels at the first start, into .cache/flashinfer below this.
        "FLASHINFER_WORKSPACE_BASE": str(INSIDE_CACHE),
        "TORCH_EXTENSIONS_DIR": f"{INSIDE_CACHE}/torch_extensions",
        "TRITON_CACHE_DIR": f"{INSIDE_CACHE}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{INSIDE_CACHE}/torchinductor",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if not spec.network:
        # Without a network vLLM finds no address of its own to bind its workers' channel to.
        decided["VLLM_HOST_IP"] = "127.0.0.1"
    return tuple(sorted({**decided, **dict(spec.env)}.items()))


def with_image(spec: ContainerSpec, image: Mapping[str, str]) -> dict[str, str]:
    """The container's own variables, where the image sets `image`."""
    env = dict(spec.environment)
    if spec.python_path:
        search = (spec.python_path, env.get("PYTHONPATH", image.get("PYTHONPATH")))
        env["PYTHONPATH"] = ":".join(filter(None, search))
    return env


def _mounts(spec: ModelSpec, layout: Layout, names: Names) -> tuple[Mount, ...]:
    # The order is part of the spec hash: another one would replace running models at an upgrade.
    locks = [(layout.gpu_lock, INSIDE_GPU_LOCK)]
    if spec.lifecycle is not Lifecycle.UTILITY:
        # flock(2) works on a read-only file, so a model sees no lock but those that it takes.
        locks.append((layout.lane_lock, INSIDE_LANE_LOCK))
    mounts = [Mount(source=str(lock), target=str(seen), read_only=True) for lock, seen in locks]
    cache = str(layout.cache_dir(names))
    mounts.append(Mount(source=cache, target=str(INSIDE_CACHE), read_only=False))
    if spec.transport is Transport.UNIX:
        endpoint = str(layout.endpoint_dir(names))
        mounts.append(Mount(source=endpoint, target=str(INSIDE_ENDPOINT), read_only=False))
    if spec.evict is Evict.SLEEP:
        mounts.append(
            Mount(
                source=str(layout.in_container_dir), target=str(IN_CONTAINER_CODE), read_only=True
            )
        )
    named = [(spec.model_id, spec.weights)] if spec.weights else []
    named += [(adapter.name, adapter.weights) for adapter in spec.adapters]
    mounts.extend(
        Mount(source=str(mount_root(weights.path)), target=str(_mounted_at(name)), read_only=True)
        for name, weights in named
    )
    mounts.extend(
        Mount(source=str(layout.host_path(file.path)), target=file.target, read_only=True)
        for file in spec.files
    )
    return tuple(mounts)


def _ulimits(spec: ModelSpec) -> tuple[Ulimit, ...]:
    # Locked memory and open files are inherited from the user manager, which the package gives
    # LimitMEMLOCK=infinity: asking for more than it has would fail the start.
    return (Ulimit(name="stack", soft=_STACK_BYTES, hard=_STACK_BYTES),) if spec.gpu else ()


def _hash(spec: ContainerSpec) -> str:
    told = {name: value for name, value in asdict(spec).items() if name != "python_path" or value}
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
