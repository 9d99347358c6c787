# SPDX-License-Identifier: Apache-2.0
"""Findings about the GPU for Podman: its CDI descriptions, and NVIDIA's driver.

Podman skips a file of /etc/cdi or /var/run/cdi that it cannot read or whose version it does not
know, and takes the others. Of two files in one directory that describe a device neither counts, of
two in both that of /var/run/cdi. Whatever is wrong, it says `unresolvable CDI devices`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePath

from sparkd.core.diagnosis.facts import CdiSpec, Engine, Gpu, Version
from sparkd.core.diagnosis.findings import Finding, Findings, Level, problem, warning

ACCEPTS: tuple[tuple[Version, Version], ...] = (
    ((4, 3), (0, 5, 0)),
    ((4, 9), (0, 6, 0)),
    ((5, 4), (0, 8, 0)),
)
"""Up to which version of CDI a Podman reads: 4.3.1 and 5.4.2 were tried, 4.9.3 was reported."""

_UNRESOLVED = "no model that wants a GPU starts: `unresolvable CDI devices`"
_GENERATE = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
_LATER = "/var/run/cdi"


def gpu_findings(gpu: Gpu, engine: Engine | None) -> Findings:
    if gpu.wanted:
        yield from _spec_findings(gpu, engine)
    yield from _driver_findings(gpu)
    for path in gpu.hooks:
        yield warning(
            "oci-hook",
            f"{path} is NVIDIA's former way into containers",
            "it runs at each start beside CDI and can fail it",
            f"sudo rm {path}",
        )


def accepted_version(podman: Version) -> Version | None:
    """The newest CDI version that this Podman reads; None where it was not tried."""
    if not podman or podman[:2] > ACCEPTS[-1][0]:
        return None
    known = [cdi for version, cdi in ACCEPTS if version <= podman[:2]]
    return known[-1] if known else None


def unresolved_reason(gpu: Gpu, engine: Engine) -> Finding | None:
    """The first reason why Podman resolves no device that models want; None if none is found."""
    found = _spec_findings(gpu, engine)
    return next((finding for finding in found if finding.level is Level.PROBLEM), None)


def _spec_findings(gpu: Gpu, engine: Engine | None) -> Findings:
    wanted = set(gpu.wanted)
    usable = [spec for spec in gpu.specs if not _skipped(spec, engine)]
    lacking = wanted - {device for spec in usable for device in spec.devices}
    newer: set[str] = set()
    for spec in gpu.specs:
        if not _skipped(spec, engine):
            if _kinds(wanted) & _kinds(spec.devices):
                yield from _stale_findings(spec)
            continue
        finding = _skipped_finding(spec, engine)
        described = set(spec.devices) if finding.code == "cdi-version" else set()
        newer |= described
        # Podman skips the file and takes the others, so it matters only where they lack a device.
        needed = bool(lacking & described) if described else bool(lacking)
        why = _UNRESOLVED if needed else "Podman skips this file; no model needs it"
        level = Level.PROBLEM if needed else Level.WARNING
        yield replace(finding, level=level, why=f"{why}{finding.why}")
    yield from _definition_findings([one for one in usable if _kinds(wanted) & _kinds(one.devices)])
    for device in gpu.wanted:
        if device in lacking - newer:
            yield problem(
                "cdi-missing",
                f"no usable file in /etc/cdi or /var/run/cdi describes {device}",
                _UNRESOLVED,
                _GENERATE,
            )


def _kinds(devices: Iterable[str]) -> set[str]:
    """`nvidia.com/gpu` of `nvidia.com/gpu=all`; other vendors' files are no matter of models."""
    return {device.partition("=")[0] for device in devices}


def _skipped(spec: CdiSpec, engine: Engine | None) -> bool:
    """Whether Podman leaves the file out."""
    return not spec.readable or bool(spec.broken) or _too_new(spec, engine) is not None


def _too_new(spec: CdiSpec, engine: Engine | None) -> Version | None:
    """The newest version that this Podman reads, where the file has a newer one."""
    accepted = accepted_version(engine.version) if engine is not None else None
    return accepted if accepted is not None and _version(spec.version) > accepted else None


def _skipped_finding(spec: CdiSpec, engine: Engine | None) -> Finding:
    """The reason why Podman skips a file; its level and `why` are completed by the caller."""
    if not spec.readable:
        return problem(
            "cdi-unreadable",
            f"the user sparkd may not read {spec.path}",
            "",
            f"sudo chmod a+rX {spec.directory} {spec.path}",
        )
    accepted = _too_new(spec, engine)
    if spec.broken or engine is None or accepted is None:
        ours = "nvidia" in PurePath(spec.path).name and not spec.dangling
        return problem(
            "cdi-broken",
            f"{spec.path} is not a CDI file: {spec.broken}",
            "",
            f"sudo nvidia-ctk cdi generate --output={spec.path}"
            if ours
            else f"sudo mv {spec.path} {spec.path}.broken",
        )
    newest, version = ".".join(map(str, accepted)), ".".join(map(str, engine.version))
    return problem(
        "cdi-version",
        f"Podman {version} cannot use {spec.path}: CDI {spec.version}, it reads up to {newest}",
        "; version 1.19.1 of NVIDIA's toolkit writes 0.7.0",
        "sudo apt install nvidia-container-toolkit=1.18.0-1 "
        "nvidia-container-toolkit-base=1.18.0-1 libnvidia-container-tools=1.18.0-1 "
        f"libnvidia-container1=1.18.0-1 && sudo nvidia-ctk cdi generate --output={spec.path}; "
        "or a newer Podman",
    )


def _stale_findings(spec: CdiSpec) -> Findings:
    if spec.missing:
        yield problem(
            "cdi-stale",
            f"{spec.path} names {spec.missing[0]}, which is not there"
            + (f", and {len(spec.missing) - 1} more" if spec.missing[1:] else ""),
            "it was written for another driver; starts fail at the missing device, file or hook",
            f"sudo nvidia-ctk cdi generate --output={spec.path}",
        )


def _definition_findings(usable: list[CdiSpec]) -> Findings:
    where = defaultdict(list)
    for spec in usable:
        for device in spec.devices:
            where[device].append(spec)
    for device, specs in where.items():
        by_directory = defaultdict(list)
        for spec in specs:
            by_directory[spec.directory].append(spec.path)
        for paths in by_directory.values():
            if len(paths) > 1:
                yield problem(
                    "cdi-twice",
                    f"{' and '.join(paths)} both describe {device}",
                    f"of two files in one directory neither counts: {_UNRESOLVED}",
                    f"sudo rm {' '.join(paths[1:])}",
                )
        if len(by_directory) > 1 and _LATER in by_directory:
            older = next(name for name in by_directory if name != _LATER)
            yield warning(
                "cdi-shadowed",
                f"{by_directory[_LATER][0]} and {by_directory[older][0]} both describe {device}",
                f"the one in {_LATER} is used, so writing the other again has no effect",
                f"sudo rm {' '.join(by_directory[older])}",
            )


def _driver_findings(gpu: Gpu) -> Findings:
    if gpu.wanted and gpu.driver is None:
        yield warning(
            "no-driver",
            "NVIDIA's driver is not loaded: there is no /proc/driver/nvidia/version",
            "no model can use a GPU",
            "sudo modprobe nvidia, or install the driver of your system",
        )
    if gpu.smi is not None and not gpu.smi_works:
        yield problem(
            "smi-fails",
            f"nvidia-smi fails: {gpu.smi}",
            "the driver does not answer; after an update of it a reboot is needed",
            "sudo reboot",
        )
    elif gpu.persistent is False:
        yield warning(
            "no-persistence",
            "the driver does not stay loaded while the GPU is idle",
            "each start of a model after a pause begins with the driver's own, some seconds",
            "sudo systemctl enable --now nvidia-persistenced",
        )


def _version(text: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", text))
