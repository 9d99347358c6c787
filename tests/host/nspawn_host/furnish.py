# SPDX-License-Identifier: Apache-2.0
"""What turns a plain Debian tree into a host for sparkd: settings, user, package, engines.

Each step may be done again on a host that has it already. Starting and ending the host is not
decided here.
"""

from __future__ import annotations

from pathlib import Path

from . import cache
from .console import say
from .guest import Guest, controllers

USER = "sparkd"

_MASKED_UNITS = (
    "systemd-modules-load.service",  # the machine's kernel takes no modules from a host
    "console-getty.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
)

_FILES = {
    # The node that systemd-nspawn makes has the machine's mode, 0600; pasta needs to open it.
    "etc/tmpfiles.d/50-test-host.conf": "c /dev/net/tun 0666 - - - 10:200\nz /dev/net/tun 0666\n",
    # Podman finds a GPU by this description; the node is a harmless one.
    "etc/cdi/nvidia.yaml": """\
cdiVersion: "0.5.0"
kind: nvidia.com/gpu
devices:
  - name: all
    containerEdits:
      env: ["SPARKD_TEST_GPU=all"]
      deviceNodes:
        - path: /dev/null
""",
    "etc/resolv.conf": "",
}

# For a machine that keeps its controllers on cgroup v1: there a pids limit cannot be set.
_NO_PIDS_LIMIT = {
    "etc/containers/containers.conf.d/50-test-host.conf": "[containers]\npids_limit = 0\n",
}

# Podman 4.3 would choose the vfs driver, which copies every layer in full.
_STORAGE_CONF = '[storage]\\ndriver = "overlay"\\n'


def prepare_tree(root: Path, hostname: str) -> None:
    """Write into an unpacked tree what must be there before its first boot."""
    (root / "etc/hostname").write_text(f"{hostname}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {hostname}\n::1 localhost\n")
    for unit in _MASKED_UNITS:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    files = _FILES if "pids" in controllers() else {**_FILES, **_NO_PIDS_LIMIT}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_user(guest: Guest) -> None:
    """Make the service user by hand, on a host that does not get the package."""
    home = f"/var/lib/{USER}"
    guest.run(
        *("useradd", "--system", "--create-home", "--home-dir", home),
        *("--shell", "/usr/sbin/nologin", "--groups", "systemd-journal", USER),
    )
    span = "100000-165535"
    guest.run("usermod", "--add-subuids", span, "--add-subgids", span, USER)
    config = f"{home}/.config/containers"
    guest.run("mkdir", "-p", config, user=USER)
    guest.run("sh", "-c", f"printf '{_STORAGE_CONF}' >{config}/storage.conf", user=USER)
    guest.run("loginctl", "enable-linger", USER)


def install_package(guest: Guest, deb: Path) -> None:
    """Install the built package by apt, over an older or equal one if there is any."""
    say(f"install {deb.name}")
    inside = f"/var/tmp/{deb.name}"
    cache.place_file(deb, guest.root / inside.lstrip("/"))
    guest.run(
        *("apt-get", "install", "-y", "--no-install-recommends", "--reinstall"),
        *("--allow-downgrades", "-o", "Dpkg::Options::=--force-confold", inside),
        env={"DEBIAN_FRONTEND": "noninteractive"},
    )
    guest.run("rm", inside)


def load_image(guest: Guest, archive: Path) -> None:
    """Load a container image into the service user's Podman."""
    say(f"load image {archive.name}")
    inside = f"/var/tmp/{archive.name}"
    cache.place_file(archive, guest.root / inside.lstrip("/"))
    guest.run("podman", "load", "--quiet", "--input", inside, user=USER)
    guest.run("rm", inside)


def place_weights(guest: Guest, weights: Path) -> None:
    """Copy a model's weights to where the service looks for them, owned by the service user."""
    model = weights.name
    say(f"place the weights of {model}")
    inside = f"/var/lib/{USER}/models/{model}"
    guest.run("mkdir", "-p", inside)
    cache.copy_tree(weights, guest.root / inside.lstrip("/"))
    guest.run("chown", "-R", f"{USER}:{USER}", inside)


def place_catalog(guest: Guest, source: Path) -> None:
    """Put a catalog file among the administrator's own ones."""
    target = guest.root / "etc/sparkd/models.d" / source.name
    target.write_text(source.read_text())
    guest.run("systemctl", "try-restart", "sparkd.service")


def enable_socket(guest: Guest) -> None:
    """Do the one thing that a person does after installing the package."""
    guest.run("systemctl", "enable", "--now", "sparkd.socket")
