# SPDX-License-Identifier: Apache-2.0
"""Findings about memory, disk, clock, port, files and leftovers of a host."""

from __future__ import annotations

import ipaddress

from sparkd.core.diagnosis.facts import Catalog, Clock, Disk, Leftovers, Memory, Path, Port
from sparkd.core.diagnosis.findings import Findings, problem, warning
from sparkd.core.quantities import count_of, gib_of

DISK_FULL_BYTES = 1 << 30
DISK_LOW_BYTES = 20 << 30
"""An image of an engine, or the weights of a small model."""
_LOW_FILES = 0.02
"""Of all: below this share of free inodes an image does not unpack any more."""


def memory_findings(memory: Memory) -> Findings:
    if memory.largest is not None:
        yield from _need_findings(memory, *memory.largest)
    if memory.unified and memory.swap_bytes == 0:
        yield warning(
            "no-swap",
            "there is no swap",
            "where GPU and CPU share the memory, the moment in which an engine compiles and "
            "captures graphs can take all of it, and the host stands still instead of swapping",
            "sudo fallocate -l 64G /swapfile && sudo chmod 600 /swapfile && "
            "sudo mkswap /swapfile && sudo swapon /swapfile, and a line in /etc/fstab",
        )


def _need_findings(memory: Memory, model_id: str, need: int) -> Findings:
    limit = memory.total_bytes - memory.reserve_bytes
    usable = memory.available_bytes - memory.reserve_bytes
    if need > limit:
        yield problem(
            "model-too-large",
            f"{model_id} needs {gib_of(need)}, this host can give {gib_of(limit)}",
            "it is refused at each request",
            f"lower its --gpu-memory-utilization, as sparkctl show {model_id} reckons, or use a "
            "smaller model",
        )
    elif need > usable:
        yield warning(
            "memory-short",
            f"{model_id} needs {gib_of(need)}, of {gib_of(memory.total_bytes)} there are "
            f"{gib_of(memory.available_bytes)} available",
            "while it is so the model waits, unless models that run now give that much back",
            "ps aux --sort=-rss | head",
        )
    elif need > memory.free_bytes and memory.unified and not memory.drops_caches:
        yield warning(
            "page-cache",
            f"{gib_of(memory.available_bytes - memory.free_bytes)} of the available memory are "
            "page cache, and sparkd-drop-caches.path does not run; "
            f"{model_id} needs {gib_of(need)}",
            "engines see only free memory and fail although there is enough",
            "sudo systemctl start sparkd-drop-caches.path",
        )


def disk_findings(disk: Disk) -> Findings:
    if disk.free_bytes < DISK_FULL_BYTES:
        yield problem(
            "disk-full",
            f"{disk.path} has {gib_of(disk.free_bytes)} left",
            "no image, weights or cache can be written",
            f"sudo du -xh -d 2 {disk.path} | sort -h | tail; sudo -u sparkd podman image prune",
        )
    elif disk.free_bytes < DISK_LOW_BYTES:
        yield warning(
            "disk-low",
            f"{disk.path} has {gib_of(disk.free_bytes)} left",
            "images of engines take 10 to 30 GB, weights up to 80",
            f"sudo du -xh -d 2 {disk.path} | sort -h | tail",
        )
    if disk.total_files and disk.free_files < _LOW_FILES * disk.total_files:
        yield problem(
            "inodes-low",
            f"{disk.path} has {disk.free_files} inodes left",
            "no more files can be made, whatever space there is",
            f"sudo du -x --inodes -d 2 {disk.path} | sort -n | tail",
        )


def clock_findings(clock: Clock) -> Findings:
    if clock.now < clock.built_at:
        yield problem(
            "clock-wrong",
            "the clock shows a time before sparkd was built",
            "downloads fail because certificates seem not to be valid yet, and models seem to "
            "have been used in the future",
            "sudo timedatectl set-ntp true",
        )
    elif clock.synchronised is False:
        yield warning(
            "clock-unsynchronised",
            "the clock is not synchronised",
            "it drifts; downloads fail once certificates do not seem valid",
            "sudo apt install systemd-timesyncd && sudo timedatectl set-ntp true",
        )


def port_findings(port: Port) -> Findings:
    if port.socket_state != "active" and port.holders:
        yield problem(
            "port-taken",
            f"sparkd.socket is {port.socket_state}: its port belongs to {port.holders[0]}",
            "systemd cannot listen there, and clients send prompts and keys to the other program",
            "stop that program (sudo ss -ltnp shows it), then: "
            "sudo systemctl enable sparkd.socket && sudo systemctl restart sparkd.socket",
        )
    elif port.socket_state not in ("active", "unknown"):
        yield problem(
            "socket-down",
            f"sparkd.socket is {port.socket_state}",
            "clients get `connection refused`",
            "sudo systemctl enable --now sparkd.socket",
        )
    elif port.enabled == "disabled":
        yield warning(
            "socket-not-enabled",
            "sparkd.socket is not enabled",
            "after the next boot clients get `connection refused`",
            "sudo systemctl enable sparkd.socket",
        )
    outside = [address for address in port.listen if is_outside(address)]
    if port.key_error is not None:
        what, fix = port.key_error
        yield problem("no-key", what, "every request is refused until there is a key", fix)
    if outside:
        yield warning(
            "port-open",
            f"sparkd.socket listens on {' and '.join(outside)}",
            "other machines reach it, and everybody on the way can read the key, prompts and "
            "answers: it is plain HTTP",
            "sudo systemctl revert sparkd.socket && sudo systemctl restart sparkd.socket; "
            "then an SSH tunnel",
        )


def is_outside(listen: str) -> bool:
    """Whether other machines reach an address as systemd prints it."""
    host, colon, _ = listen.rpartition(":")
    if not colon or "/" in listen:
        return False
    try:
        return not ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return True


def path_findings(path: Path) -> Findings:
    if path.mode is None:
        yield problem(
            "path-missing",
            f"{path.path} is not there",
            "locks, sockets or weights have no place",
            "sudo systemd-tmpfiles --create sparkd.conf",
        )
        return
    too_open = path.mode & ~path.wanted_mode
    if too_open & 0o027 or path.owner != path.wanted_owner:
        yield problem(
            "path-mode",
            f"{path.path} is {path.mode:04o} of {path.owner}, must be {path.wanted_mode:04o} of "
            f"{path.wanted_owner}",
            "other users have access that only sparkd may have, or sparkd lacks access",
            f"sudo chown {path.wanted_owner} {path.path} && "
            f"sudo chmod {path.wanted_mode:04o} {path.path}",
        )


def leftover_findings(leftovers: Leftovers) -> Findings:
    kinds = (
        ("a container", leftovers.containers),
        ("a scope", leftovers.scopes),
        ("an endpoint", leftovers.directories),
        ("a failed unit", leftovers.failed_units),
    )
    for model_id in sorted({model_id for _, models in kinds for model_id in models}):
        parts = [name for name, models in kinds if model_id in models]
        yield warning(
            "leftover",
            f"{' and '.join(parts)} of {model_id} stayed behind, and it does not run",
            "it takes place; the next start of the model, or of the gateway, removes it too",
            f"sudo sparkctl stop {model_id}",
        )


def catalog_findings(catalog: Catalog) -> Findings:
    if catalog.problems:
        yield problem(
            "configuration",
            f"the configuration has {count_of(catalog.problems, 'problem')}",
            "entries that are wrong are refused; while sparkd.yaml is wrong, everything is",
            "sparkctl check",
        )
    for model_id, path in catalog.unreadable_weights:
        yield problem(
            "weights-unreadable",
            f"the user sparkd may not read {path}, the weights of {model_id}",
            "the model is refused",
            f"sudo chmod -R a+rX {path}",
        )
    for model_id, message, hint in catalog.misplaced_weights:
        yield problem("weights-misplaced", f"{model_id}: {message}", "the model is refused", hint)
