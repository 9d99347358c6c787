# SPDX-License-Identifier: Apache-2.0
"""Upgrade and downgrade while a model answers: it goes on, and so does what it is saying.

The older package is that of the release before, built from its tag; in a clone that has no tag it
is this one under an older version.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sparkd import __version__

from .hosts import HOST, ROOT, SETTINGS, Host, Stream, held_stream
from .releases import package_of, tag_before
from .test_lifecycle import container_id, daemon_pid

CONFFILE = "/etc/sparkd/sparkd.yaml"
PATIENT = f"{SETTINGS}drain_timeout: 120s\n"
"""However long an installation takes, the gateway waits for what is open."""
OLDER, THIS, NEWER = ("/root/sparkd-older.deb", "/root/sparkd-this.deb", "/root/sparkd-newer.deb")


@pytest.fixture(scope="module", params=["trixie", "bookworm"])
def packaged(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host with the package, and with one that is older and one that is newer than it."""
    host: Host = request.getfixturevalue(request.param)
    with packages(host):
        yield host


@contextmanager
def packages(host: Host) -> Iterator[None]:
    """The package in three versions on the host, for a while; then it has the right one again."""
    (deb,) = (ROOT / "dist").glob("sparkd_*_all.deb")
    subprocess.run([HOST, "cp", "--name", host.name, deb, THIS], check=True)
    host.sh(
        f"set -e; rm -rf /root/tree; dpkg-deb -R {THIS} /root/tree; cd /root/tree;"
        "sed -i '/^Version:/s/$/~older/' DEBIAN/control;"
        f"dpkg-deb -Znone -b . {OLDER};"
        "sed -i '/^Version:/s/~older/+newer/' DEBIAN/control;"
        f"echo '# of the newer package' >>etc/sparkd/sparkd.yaml; dpkg-deb -Znone -b . {NEWER};"
        "rm -r /root/tree"
    )
    if before := tag_before(__version__):
        subprocess.run([HOST, "cp", "--name", host.name, package_of(before), OLDER], check=True)
    yield
    host.stop_models()
    host.sh(f"dpkg -i --force-confnew {THIS} && rm {OLDER} {THIS} {NEWER}")


@pytest.fixture
def serving(packaged: Host) -> Iterator[Host]:
    packaged.stop_models()
    packaged.run("systemctl", "start", "sparkd.socket")
    packaged.configure(PATIENT)
    yield packaged
    packaged.stop_models()


def install(host: Host, deb: str) -> None:
    host.run("dpkg", "-i", "--force-confold", deb)


def version(host: Host) -> str:
    return host.sh("dpkg-query -W -f '${Version}' sparkd")


@pytest.mark.parametrize("way", [(OLDER, THIS), (THIS, OLDER)], ids=["upgrade", "downgrade"])
def test_model_and_open_stream_outlive_a_change_of_the_package(
    serving: Host, way: tuple[str, str]
) -> None:
    before, after = way
    install(serving, before)
    stream = held_stream(serving, "fake-b")
    container, gateway = container_id(serving, "fake-b"), daemon_pid(serving)
    was = version(serving)

    install(serving, after)

    assert version(serving) != was
    assert not stream.over
    # Who comes meanwhile waits for the next gateway.
    newcomer = Stream(serving, "fake-b", tokens=3, pace_ms=0)
    stream.go_on()
    for one in (stream, newcomer):
        one.wait()
        assert one.status == 200
        assert one.whole
    assert container_id(serving, "fake-b") == container
    assert daemon_pid(serving) != gateway


def test_upgrade_replaces_settings_only_if_nobody_changed_them(serving: Host) -> None:
    packaged = f"dpkg-deb --fsys-tarfile {THIS} | tar -xO .{CONFFILE}"
    serving.sh(f"{packaged} >{CONFFILE}")
    install(serving, THIS)
    install(serving, NEWER)
    assert serving.sh(f"tail -n 1 {CONFFILE}") == "# of the newer package"

    install(serving, THIS)
    serving.sh(f"echo '# of the host' >>{CONFFILE}")
    install(serving, NEWER)
    assert serving.sh(f"tail -n 1 {CONFFILE}") == "# of the host"
    assert serving.sh(f"tail -n 1 {CONFFILE}.dpkg-dist") == "# of the newer package"
    serving.sh(f"rm {CONFFILE}.dpkg-dist")
    assert serving.run("sparkctl", "check").returncode == 0

    serving.sh(f"rm {CONFFILE}")
    install(serving, THIS)
    assert serving.sh(f"ls {CONFFILE}", check=False) == "", "what was deleted stays so"
