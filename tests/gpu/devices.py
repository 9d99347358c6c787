# SPDX-License-Identifier: Apache-2.0
"""The GPU in a rootless container, asked for by CDI through Podman's API; and a container without.

The container is made as sparkd makes them (podman-py, no capabilities, no network), but without
sparkd, so that what is seen is Podman's and the driver's doing alone.
"""

from __future__ import annotations

import json

from tests.system.hosts import Host

from .readings import Json
from .stage import DRIVER, IMAGE, MOUNTED

_SCRIPT = r"""
import glob, json, os, sys
sys.path[:0] = [path.removesuffix("/podman/__init__.py") for path in {podman!r}]
from podman import PodmanClient

uid = os.getuid()
client = PodmanClient(base_url=f"http+unix:///run/user/{{uid}}/podman/podman.sock", timeout=300)
found = {{}}
for name, devices in (("with the device", ["nvidia.com/gpu=all"]), ("without", [])):
    for what, command in {commands!r}.items():
        container = client.containers.create(
            {image!r}, command[1:], entrypoint=command[:1], devices=devices,
            cgroups_mode="disabled",
            network_mode="none", read_only=True, read_write_tmpfs=True, cap_drop=["ALL"],
            no_new_privileges=True, mounts={mounts!r},
        )
        try:
            container.start()
            code = container.wait()
            said = b"".join(container.logs(stdout=True, stderr=True)).decode(errors="replace")
        except Exception as error:
            code, said = -1, f"{{type(error).__name__}}: {{error}}"
        finally:
            container.remove(force=True)
        found.setdefault(name, {{}})[what] = {{"code": code, "said": said.strip()[-400:]}}
print(json.dumps(found))
"""
_CUDA = (
    "import torch; n = torch.cuda.device_count(); print(n, 'devices'); "
    "x = torch.ones(1 << 20, device='cuda'); "
    "print(torch.cuda.get_device_name(0), 'sum', int(x.sum().item()))"
)
_COMMANDS = {
    "nvidia-smi -L": [f"{DRIVER}/bin/nvidia-smi", "-L"],
    "nodes": ["sh", "-c", "ls /dev | grep nvidia"],
    "CUDA": ["python3", "-c", _CUDA],
}


def check(host: Host) -> Json:
    """Run each command in a container with the device and in one without it."""
    package = host.sh("dpkg -L sparkd | grep 'podman/__init__.py$'").split()
    mounts = [
        {"type": "bind", "source": f"/srv/engine{path}", "target": path, "read_only": True}
        for path in MOUNTED
    ]
    script = _SCRIPT.format(podman=package, commands=_COMMANDS, image=IMAGE, mounts=mounts)
    out = host.run("python3", "-c", script, user="sparkd", timeout_s=300).stdout
    found: Json = json.loads(out.splitlines()[-1])
    seen, blind = found["with the device"], found["without"]
    assert seen["nvidia-smi -L"]["code"] == 0, found
    assert "GPU 0: " in seen["nvidia-smi -L"]["said"], found
    assert f"sum {1 << 20}" in seen["CUDA"]["said"], found
    assert blind["nodes"]["code"] == 1, found
    assert blind["nvidia-smi -L"]["code"] != 0, found
    assert "0 devices" in blind["CUDA"]["said"].splitlines(), found
    return found
