# SPDX-License-Identifier: Apache-2.0
"""Files of the Container Device Interface as Podman reads them, and Podman's errors about them.

Any text is a description or is broken with a reason: this raises nothing, and texts that would grow
without bound are not expanded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import PurePath

import yaml

from sparkd.core.config.yaml_nodes import LOADER, compose
from sparkd.core.diagnosis.facts import CdiSpec
from sparkd.core.model import Problem

_INCOMPLETE = "it has no kind, cdiVersion or devices"
_CHARS = 200
_PODMAN_SAYS = re.compile(
    r"\bCDI\b|nvidia-ctk|nvidia-cdi-hook|executing hook|/dev/nvidia|/dev/dri/|libcuda|libnvidia"
    r"|/usr/bin/nvidia-"
)
"""Devices, mounts and hooks that only a CDI file puts into a container of sparkd."""


def concerns_cdi(text: str) -> bool:
    """Whether Podman's error comes from a description of a device, whatever its words are."""
    return _PODMAN_SAYS.search(text) is not None


def parse(text: str, path: str, *, exists: Callable[[str], bool]) -> CdiSpec:
    """The devices of a file; `exists` says whether a path of the host is there."""
    directory = str(PurePath(path).parent)
    value, broken = _value(text, path)
    if not broken and not isinstance(value, dict):
        broken = _INCOMPLETE
    if broken or not isinstance(value, dict):
        return CdiSpec(path=path, directory=directory, broken=broken)
    kind, version, devices = (value.get(name) for name in ("kind", "cdiVersion", "devices"))
    if not isinstance(kind, str) or version is None or not isinstance(devices, list):
        return CdiSpec(path=path, directory=directory, broken=_INCOMPLETE)
    named = [one for one in devices if isinstance(one, dict) and "name" in one]
    if not named or len(named) < len(devices):
        return CdiSpec(path=path, directory=directory, broken="it has a device without a name")
    edits = [value.get("containerEdits"), *(one.get("containerEdits") for one in named)]
    needed = {host_path for one in edits for host_path in _host_paths(one)}
    return CdiSpec(
        path=path,
        directory=directory,
        version=str(version)[:_CHARS],
        devices=tuple(f"{kind}={one['name']}"[:_CHARS] for one in named),
        missing=tuple(sorted(one for one in needed if not exists(one))),
    )


def _value(text: str, path: str) -> tuple[object, str]:
    """The value of the text, and the reason where it has none."""
    # Podman takes JSON with tabs, which YAML of Python does not.
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text), ""
        except (ValueError, RecursionError):
            pass
    problems: list[Problem] = []
    try:
        if compose(text, path, problems) is None:
            return None, problems[0].message[:_CHARS] if problems else _INCOMPLETE
        return yaml.load(text, Loader=LOADER), ""
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        return None, " ".join(str(error).split())[:_CHARS]


def _host_paths(edits: object) -> Iterator[str]:
    """The devices, files and hooks of the host that a container is given."""
    for node in _entries(edits, "deviceNodes"):
        yield from _texts(node.get("hostPath") or node.get("path"))
    for mount in _entries(edits, "mounts"):
        yield from _texts(mount.get("hostPath"))
    for hook in _entries(edits, "hooks"):
        yield from _texts(hook.get("path"))


def _entries(edits: object, name: str) -> Iterator[dict[object, object]]:
    listed = edits.get(name) if isinstance(edits, dict) else None
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict):
            yield one


def _texts(value: object) -> Iterator[str]:
    # No path of a host has a NUL, and os.path.exists raises for one.
    if isinstance(value, str) and value and "\0" not in value and value.isprintable():
        yield value
