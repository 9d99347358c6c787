# SPDX-License-Identifier: Apache-2.0
"""Writes the CDI description of this machine's NVIDIA GPU, for machines without `nvidia-ctk`.

    python3 -m tests.gpu.cdi [--driver DIRECTORY] >/etc/cdi/nvidia.yaml

Owns what a container needs to use the GPU: device nodes, the driver's libraries, `nvidia-smi`.
Where `nvidia-ctk cdi generate` is there, use that: it knows MIG, graphics and more. Unlike it,
this needs no hook in the container: a library is mounted at its soname too, and a driver that is
kept in a directory of its own is mounted as that directory, which LD_LIBRARY_PATH then names.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KIND = "nvidia.com/gpu"
CONTROL_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
READ_ONLY = ["ro", "nosuid", "nodev", "bind"]
# Of the driver's libraries, those that computing needs.
LIBRARIES = re.compile(
    r"lib(cuda|cudadebugger|nvidia-ml|nvidia-ptxjitcompiler|nvidia-nvvm|nvidia-gpucomp|"
    r"nvidia-allocator|nvidia-cfg|nvidia-opencl)\.so\.\d+"
)
_LDCONFIG_LINE = re.compile(r"^\s*(\S+) \(libc6,.*\) => (\S+)$", re.MULTILINE)

Json = dict[str, Any]


def description(*, devices: Path, driver: Path | None) -> Json:
    """The whole description: each GPU by its number, and `all`."""
    gpus = sorted(devices.glob("nvidia[0-9]*"), key=lambda node: int(node.name[6:]))
    if not gpus:
        raise SystemExit(f"cdi: there is no GPU in {devices}: /dev/nvidia0 is missing")
    each = [{"name": gpu.name[6:], "containerEdits": {"deviceNodes": nodes([gpu])}} for gpu in gpus]
    together = {"name": "all", "containerEdits": {"deviceNodes": nodes(gpus)}}
    control = [devices / name for name in CONTROL_NODES if (devices / name).exists()]
    common: Json = {"deviceNodes": nodes(control)}
    if driver is not None:
        common["mounts"] = [mount(driver, driver)]
        common["env"] = [f"LD_LIBRARY_PATH={driver / 'lib64'}"]
    else:
        common["mounts"] = [*library_mounts(), mount(Path("/usr/bin/nvidia-smi"))]
    return {
        "cdiVersion": "0.5.0",
        "kind": KIND,
        "devices": [*each, together],
        "containerEdits": common,
    }


def as_text(found: Json) -> str:
    """The description as YAML, of which JSON is a part."""
    return json.dumps(found, indent=1) + "\n"


def nodes(paths: list[Path]) -> list[Json]:
    return [{"path": f"/dev/{path.name}"} for path in paths]


def mount(source: Path, target: Path | None = None) -> Json:
    return {
        "hostPath": str(source),
        "containerPath": str(target or source),
        "options": READ_ONLY,
    }


def library_mounts() -> Iterator[Json]:
    """Each library that the loader of this machine finds, at its file's name and at its soname."""
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for soname, place in _LDCONFIG_LINE.findall(listed):
        if LIBRARIES.fullmatch(soname) and "/i386-" not in place:
            yield mount(Path(place).resolve(), Path(place))


def main() -> None:
    parser = argparse.ArgumentParser(prog="cdi", description="Describe this machine's GPU by CDI.")
    parser.add_argument("--driver", type=Path, help="the directory that holds the whole driver")
    options = parser.parse_args()

    found = description(devices=Path("/dev"), driver=options.driver)
    print(as_text(found), end="")
    print()


if __name__ == "__main__":
    main()
