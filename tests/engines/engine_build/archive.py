# SPDX-License-Identifier: Apache-2.0
"""Writes an image archive that `podman load` reads, without Podman.

Owns the docker-archive format: one tar file of layers, an image configuration and a manifest. An
image that is a root tree and a few files needs no build, and so no booted host.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Archives of the same content are the same bytes.
CREATED = "2024-01-01T00:00:00Z"
MTIME = 1_704_067_200
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def file_layer(target: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Write a layer of files: path in the image -> content and mode."""
    with tarfile.open(target, "w") as layer:
        for name, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(content), mode, MTIME
            layer.addfile(entry, io.BytesIO(content))


def write_image(
    target: Path, *, tag: str, machine: str, layers: Sequence[Path], config: Mapping[str, Any]
) -> None:
    digests = [_sha256(layer) for layer in layers]
    description = json.dumps(
        {
            "created": CREATED,
            "architecture": ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            "history": [{"created": CREATED, "created_by": tag} for _ in digests],
        }
    ).encode()
    config_name = f"{hashlib.sha256(description).hexdigest()}.json"
    names = [f"{digest}.tar" for digest in digests]
    manifest = [{"Config": config_name, "RepoTags": [tag], "Layers": names}]
    with tarfile.open(target, "w") as archive:
        _add_bytes(archive, "manifest.json", json.dumps(manifest).encode())
        _add_bytes(archive, config_name, description)
        for name, layer in zip(names, layers, strict=True):
            entry = _entry(name, layer.stat().st_size)
            with layer.open("rb") as content:
                archive.addfile(entry, content)


def _entry(name: str, size_bytes: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = size_bytes, MTIME
    return entry


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_entry(name, len(content)), io.BytesIO(content))


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
