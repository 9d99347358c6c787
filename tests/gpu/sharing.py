# SPDX-License-Identifier: Apache-2.0
"""Who may use the GPU: two main models never at once, and a foreign program's lock is respected.

Real checkpoints of 1B and 8B parameters, each of which takes more than half of the GPU or all that
the other leaves. The GPU's memory is sampled throughout.
"""

from __future__ import annotations

import subprocess
import time

from tests.system.hosts import HOST, Host

from .readings import (
    Json,
    Streamed,
    ask,
    gpu_memory_watched,
    gpu_used_mib,
    running,
    scope_of,
    until,
)
from .stage import DRIVER, PYTHON

FIRST, SECOND = "llama-1b", "llama-8b"
FOREIGN_GIB = 4
# The engine's tree as a root for a program that is none of sparkd's.
_FOREIGN = f"""
set -e
cd /srv/engine
mount -t tmpfs none /mnt
for place in usr opt; do mkdir -p /mnt/$place; mount --bind /srv/engine/$place /mnt/$place; done
for link in bin lib lib64 sbin; do ln -s usr/$link /mnt/$link; done
mkdir -p /mnt/proc /mnt/dev /mnt/tmp /mnt/etc
mount --rbind /dev /mnt/dev
mount -t proc proc /mnt/proc
mount --bind {DRIVER} /mnt{DRIVER}
export LD_LIBRARY_PATH={DRIVER}/lib64
exec flock --no-fork /run/sparkd/gpu.lock chroot /mnt {PYTHON} -c '
import sys, time, torch
x = torch.ones({FOREIGN_GIB} << 28, device="cuda")
print("sum", x.double().sum().item(), flush=True)
sys.stdin.read()
'
"""


def check(host: Host) -> Json:
    host.stop_models()
    base_mib = gpu_used_mib()
    found: Json = {"gpu_base_mib": base_mib, "swap": _second_waits(host, base_mib)}
    host.stop_models()
    until(lambda: gpu_used_mib() <= base_mib, "the GPU is free")
    found["foreign"] = _foreign(host, base_mib)
    host.stop_models()
    return found


def _second_waits(host: Host, base_mib: int) -> Json:
    """A model in use is not touched; the second one starts when the GPU's memory is back."""
    assert ask(host, FIRST, max_tokens=8)["status"] == 200
    lane = host.run("flock", "-n", "/run/sparkd/lane.lock", "true", check=False).returncode
    assert lane == 1, "the running model does not hold the lane"
    stream = Streamed.begin(host, FIRST, max_tokens=3900, ignore_eos=True)
    stream.wait_first()
    with gpu_memory_watched() as samples:
        second = Streamed.begin(host, SECOND, max_tokens=16, ignore_eos=True)
        time.sleep(2)
        meanwhile = host.request("GET", "/status").json()
        assert not scope_of(host, SECOND).exists()
        first = stream.wait()
        freed_at = time.time()
        told = second.wait(400)
    assert first["whole"], first
    assert told["whole"], told
    assert set(running(host)) == {SECOND}
    after = [used for at, used in samples if at >= freed_at]
    assert min(after) <= base_mib, after
    return {
        "flock -n lane.lock": lane,
        "queue_meanwhile": meanwhile["queue"],
        "first": first,
        "second": told,
        "gpu_mib_before": max(used for at, used in samples if at < freed_at),
        "gpu_mib_between": min(after),
        "gpu_mib_after": gpu_used_mib(),
        "comments": [
            line for line in b"".join(second.chunks).decode().splitlines() if line.startswith(":")
        ][:3],
    }


def _foreign(host: Host, base_mib: int) -> Json:
    """A program that took the lock has the GPU; sparkd says who it is and takes nothing."""
    enter = [str(HOST), "run", "--name", host.name, "--"]
    with subprocess.Popen(
        [*enter, "unshare", "--mount", "sh", "-c", _FOREIGN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        said = program.stdout.readline().strip()
        with gpu_memory_watched() as samples:
            refused = ask(host, FIRST, max_tokens=4)
            time.sleep(1)
        status = host.request("GET", "/status").json()["gpu"]
        assert refused["status"] == 503 or refused["status"] == 429, refused
        assert not scope_of(host, FIRST).exists()
        # Only the program's own memory is there, from the first sample to the last.
        assert len({used for _, used in samples}) == 1, samples
        program.stdin.close()
        program.wait(30)
    until(lambda: gpu_used_mib() <= base_mib, "the program's memory is back")
    answered = ask(host, FIRST, max_tokens=4)
    assert answered["status"] == 200, answered
    return {
        "program": said,
        "refused": refused,
        "status_gpu": status,
        "gpu_mib_meanwhile": sorted({used for _, used in samples}),
        "afterwards": answered,
    }
