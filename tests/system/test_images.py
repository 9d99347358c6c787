# SPDX-License-Identifier: Apache-2.0
"""Images on a booted host: built from a recipe without a network, listed, and shown as they run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from .hosts import Host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

RECIPES = "/etc/sparkd/containerfiles"
TINY = "FROM localhost/sparkd-fake-vllm:latest\nRUN echo hello >/tiny\n"
ON_TINY = "FROM localhost/sparkd-tiny:latest\nCOPY note /note\n"
CONFIG = ("Cmd", "Entrypoint", "Image", "StopSignal", "StopTimeout", "User", "WorkingDir")
HOST_CONFIG = (
    *("AutoRemove", "CapAdd", "CapDrop", "Cgroups", "IpcMode", "NetworkMode", "PidMode"),
    *("PortBindings", "Privileged", "ReadonlyRootfs", "RestartPolicy", "ShmSize"),
    *("Tmpfs", "UTSMode", "UsernsMode"),
)
"""What holds a container; the rest is Podman's own, or filled in when a container runs."""
NO_NETWORK = ("--", "--network=none")


@pytest.fixture
def recipes(host: Host) -> Iterator[Host]:
    """A host with two recipes of its admin, of which the second stands on the first."""
    for name, text in (("tiny", TINY), ("on-tiny", ON_TINY)):
        host.run("mkdir", "-p", f"{RECIPES}/{name}")
        host.run("tee", f"{RECIPES}/{name}/Containerfile", input=text)
    host.run("tee", f"{RECIPES}/on-tiny/note", input="note\n")
    yield host
    host.run("rm", "-r", RECIPES)
    images = "localhost/sparkd-on-tiny localhost/sparkd-tiny"
    host.sh(f"podman rmi --force {images}", user="sparkd", check=False)


def listed(host: Host) -> dict[str, Any]:
    found = json.loads(host.run("sparkctl", "images", "--json").stdout)
    return {one["image"]: one for one in found}


def test_an_image_is_built_from_its_recipe_after_the_one_that_it_stands_on(recipes: Host) -> None:
    host = recipes
    refused = host.run("sparkctl", "build", "on-tiny", *NO_NETWORK, check=False)
    assert refused.returncode == 3
    assert "hint: sudo sparkctl build tiny" in refused.stderr
    assert not listed(host)["localhost/sparkd-tiny:latest"]["present"]
    for name in ("tiny", "localhost/sparkd-on-tiny:latest"):
        done = host.run("sparkctl", "build", name, *NO_NETWORK)
        assert "is built, after" in done.stdout
        assert "STEP 2" in done.stderr
    run = ("podman", "run", "--rm", "--cgroups=disabled", "--network=none")
    done = host.run(*run, "localhost/sparkd-on-tiny", "cat", "/tiny", "/note", user="sparkd")
    assert done.stdout == "hello\nnote\n"
    assert listed(host)["localhost/sparkd-tiny:latest"]["size_bytes"] > 0
    assert not host.sh("systemctl list-units --no-legend 'sparkd-build*'")
    assert not host.sh("systemctl --user list-units --no-legend 'sparkd-build*'", user="sparkd")


def test_a_build_that_fails_says_so_and_leaves_no_image(recipes: Host) -> None:
    host = recipes
    text = "FROM localhost/sparkd-fake-vllm:latest\nRUN exit 7\n"
    host.run("tee", f"{RECIPES}/tiny/Containerfile", input=text)
    done = host.run("sparkctl", "build", "tiny", *NO_NETWORK, check=False)
    assert done.returncode == 6
    assert "the build of localhost/sparkd-tiny:latest ended with exit code 7" in done.stderr
    assert not listed(host)["localhost/sparkd-tiny:latest"]["present"]


def test_images_names_who_needs_them_and_how_to_get_them(host: Host) -> None:
    found = listed(host)
    fake = found["localhost/sparkd-fake-vllm:latest"]
    assert fake["present"]
    assert "fake-a" in fake["models"]
    general = found["localhost/sparkd-vllm:latest"]
    assert not general["present"]
    assert general["get"] == "sudo sparkctl build vllm"
    assert all(one["get"] for image, one in found.items() if "fake" not in image)


def test_the_command_that_show_prints_makes_the_container_that_a_start_makes(host: Host) -> None:
    words = json.loads(host.run("sparkctl", "show", "fake-b", "--json").stdout)["podman"]
    host.run("sparkctl", "start", "fake-b")
    copy = [word.replace("--name=sparkd-model-", "--name=shown-") for word in words]
    copy = [word for word in copy if not word.startswith("--label")]
    host.run(*copy, user="sparkd")
    host.run("podman", "init", "shown-fake-b", user="sparkd")
    ours, shown = (
        json.loads(host.run("podman", "inspect", name, user="sparkd").stdout)[0]
        for name in ("sparkd-model-fake-b", "shown-fake-b")
    )
    for name in HOST_CONFIG:
        assert shown["HostConfig"][name] == ours["HostConfig"][name], name
    for name in CONFIG:
        assert shown["Config"][name] == ours["Config"][name], name
    # Podman tells of a list of calls only if it came by its command line.
    assert limits(host, shown) == limits(host, ours)
    assert mounts(shown) == mounts(ours)
    assert shown["BoundingCaps"] == ours["BoundingCaps"]
    environment = set(ours["Config"]["Env"])
    assert {
        word.removeprefix("--env=") for word in words if word.startswith("--env=")
    } <= environment


def limits(host: Host, inspected: Any) -> Any:
    """What the runtime is told of the kernel's calls and of privileges."""
    config = json.loads(host.run("cat", inspected["OCIConfigPath"], user="sparkd").stdout)
    assert config["linux"]["seccomp"]["syscalls"]
    return config["linux"]["seccomp"], config["process"]["noNewPrivileges"]


def mounts(inspected: Any) -> list[tuple[str, str, bool]]:
    return sorted((one["Source"], one["Destination"], one["RW"]) for one in inspected["Mounts"])
