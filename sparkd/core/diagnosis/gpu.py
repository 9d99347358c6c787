# SPDX-License-Identifier: Apache-2.0
"""Whether Podman finds the GPU: the descriptions that CDI has of it, and NVIDIA's driver.

Podman reads a file of /etc/cdi or /var/run/cdi only if it can and if it knows its version; of two
files in one directory that describe a device neither counts, of two in both that of /var/run/cdi.
Whatever is wrong, it says `unresolvable CDI devices`.
"""

from __future__ import annotations

import re
from collections import defaultdict

from sparkd.core.diagnosis.facts import CdiSpec, Engine, Gpu, Version
from sparkd.core.diagnosis.findings import Findings, problem, warning

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
    """The newest CDI version that this Podman reads; None where nobody has tried."""
    if not podman or podman[:2] > ACCEPTS[-1][0]:
        return None
    known = [cdi for version, cdi in ACCEPTS if version <= podman[:2]]
    return known[-1] if known else None


def _spec_findings(gpu: Gpu, engine: Engine | None) -> Findings:
    usable = []
    for spec in gpu.specs:
        bad = list(_file_findings(spec, engine))
        yield from bad
        if not any(finding.code != "cdi-stale" for finding in bad):
            usable.append(spec)
    yield from _definition_findings(usable)
    described = {device for spec in usable for device in spec.devices}
    for device in gpu.wanted:
        if device not in described:
            yield problem(
                "cdi-missing",
                f"no usable file in /etc/cdi or /var/run/cdi describes {device}",
                _UNRESOLVED,
                _GENERATE,
            )


def _file_findings(spec: CdiSpec, engine: Engine | None) -> Findings:
    if not spec.readable:
        yield problem(
            "cdi-unreadable",
            f"the user sparkd may not read {spec.path}",
            _UNRESOLVED,
            f"sudo chmod a+rX {spec.directory} {spec.path}",
        )
        return
    if spec.broken:
        yield problem(
            "cdi-broken", f"{spec.path} is not a CDI file: {spec.broken}", _UNRESOLVED, _GENERATE
        )
        return
    accepted = accepted_version(engine.version) if engine is not None else None
    if engine is not None and accepted is not None and _version(spec.version) > accepted:
        newest = ".".join(map(str, accepted))
        yield problem(
            "cdi-version",
            f"{spec.path} is of CDI version {spec.version}, Podman "
            f"{'.'.join(map(str, engine.version))} reads up to {newest}",
            f"{_UNRESOLVED}; version 1.19.1 of NVIDIA's toolkit writes 0.7.0",
            "sudo apt install nvidia-container-toolkit=1.18.0-1 "
            "nvidia-container-toolkit-base=1.18.0-1 libnvidia-container-tools=1.18.0-1 "
            f"libnvidia-container1=1.18.0-1 && {_GENERATE}; or a newer Podman",
        )
    if spec.missing:
        yield problem(
            "cdi-stale",
            f"{spec.path} names {spec.missing[0]}, which is not there"
            + (f", and {len(spec.missing) - 1} more" if spec.missing[1:] else ""),
            "it was written for another driver; starts fail when the device or file is mounted",
            _GENERATE.replace("/etc/cdi/nvidia.yaml", spec.path),
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
                f"the one in {_LATER} is used, so writing the other anew has no effect",
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
            "the driver does not stay loaded while nobody uses the GPU",
            "each start of a model after a pause begins with the driver's own, some seconds",
            "sudo systemctl enable --now nvidia-persistenced",
        )


def _version(text: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", text))
