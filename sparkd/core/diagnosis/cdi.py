# SPDX-License-Identifier: Apache-2.0
"""Reads a file of the Container Device Interface, as far as a diagnosis needs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import yaml

from sparkd.core.diagnosis.facts import CdiSpec


def parse(text: str, path: str, *, exists: Callable[[str], bool]) -> CdiSpec:
    """What the file describes; `exists` says whether a path of the host is there."""
    directory = str(PurePath(path).parent)
    try:
        spec = yaml.safe_load(text)
        kind, devices = str(spec["kind"]), spec["devices"]
        edits = [spec.get("containerEdits"), *(one.get("containerEdits") for one in devices)]
        needed = {host_path for one in edits if one for host_path in _host_paths(one)}
        return CdiSpec(
            path=path,
            directory=directory,
            version=str(spec["cdiVersion"]),
            devices=tuple(f"{kind}={one['name']}" for one in devices),
            missing=tuple(sorted(one for one in needed if not exists(one))),
        )
    except yaml.YAMLError as error:
        broken = " ".join(str(error).split())
    except (KeyError, TypeError, AttributeError):
        broken = "it has no kind, cdiVersion or devices"
    return CdiSpec(path=path, directory=directory, broken=broken)


def _host_paths(edits: dict[str, Any]) -> list[str]:
    """The devices and files of the host that a container is given."""
    nodes, mounts = edits.get("deviceNodes") or [], edits.get("mounts") or []
    return [
        *(str(node.get("hostPath") or node["path"]) for node in nodes),
        *(str(mount["hostPath"]) for mount in mounts),
    ]
