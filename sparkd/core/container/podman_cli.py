# SPDX-License-Identifier: Apache-2.0
"""A container as the command line that would create it, for people who want to see or try it.

sparkd itself makes containers through Podman's API; both are written from the same
`ContainerSpec`, and a test on a host compares what Podman makes of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from sparkd.core.container.spec import (
    INSIDE_TCP_PORT,
    OOM_SCORE_ADJ,
    TMPFS,
    ContainerSpec,
    with_image,
)

_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL")


def podman_create(spec: ContainerSpec) -> tuple[str, ...]:
    """The words of `podman create`; what may be a secret is left out of them."""
    return ("podman", "create", *_options(spec), spec.image, *spec.command[1:])


def public_environment(spec: ContainerSpec) -> dict[str, str]:
    """The variables of the container, those that may be secrets without their values."""
    return {name: _public(name, value) for name, value in sorted(with_image(spec, {}).items())}


def _options(spec: ContainerSpec) -> Iterator[str]:
    yield f"--name={spec.name}"
    # systemd has the control group: the scope around the container.
    yield "--cgroups=disabled"
    yield from ("--ipc=private", f"--shm-size={spec.shm_bytes}b")
    yield from ("--read-only", "--read-only-tmpfs=true")
    yield from (f"--tmpfs={path}:mode=1777" for path in TMPFS)
    yield f"--oom-score-adj={OOM_SCORE_ADJ}"
    yield from ("--cap-drop=ALL", "--security-opt=no-new-privileges")
    yield f"--security-opt=seccomp={spec.seccomp_profile}"
    yield from (f"--stop-signal={spec.stop_signal}", f"--stop-timeout={spec.stop_timeout_s}")
    yield from (f"--log-driver={spec.log_driver}", "--no-healthcheck", "--restart=no")
    yield from (() if spec.network else ("--network=none",))
    if spec.publish_port is not None:
        yield f"--publish=127.0.0.1:{spec.publish_port}:{INSIDE_TCP_PORT}"
    yield from (f"--device={device}" for device in spec.devices)
    yield from (f"--ulimit={one.name}={one.soft}:{one.hard}" for one in spec.ulimits)
    for mount in spec.mounts:
        mode = ",ro=true" if mount.read_only else ""
        yield f"--mount=type=bind,source={mount.source},target={mount.target}{mode}"
    yield from (f"--env={name}={value}" for name, value in public_environment(spec).items())
    yield from (f"--label={name}={value}" for name, value in spec.labels)
    yield f"--entrypoint={json.dumps([spec.command[0]])}"


def _public(name: str, value: str) -> str:
    if not _SECRET.search(name.upper()):
        return value
    return f"({len(value)} characters not shown)"
