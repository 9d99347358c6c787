# SPDX-License-Identifier: Apache-2.0
"""What the Debian package promises: what install, upgrade, removal and purge do to a host.

Installs the real package on plain hosts of its own, one a supported release. A test may leave the
package installed or gone; each says by its fixture which of the two it starts from.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from .hosts import HOST, ROOT, Host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hosts need root")

DEB = "/root/sparkd.deb"
NEXT_DEB = "/root/sparkd-next.deb"
HOME = "/var/lib/sparkd"
MODEL_SCOPE = "sparkd-model-stand\\x2din.scope"


class Machine(Host):
    """A booted host of one release, without engines, on which the package comes and goes."""

    def __init__(self, suite: str) -> None:
        super().__init__(f"package-{suite}-{os.getpid()}")
        self.suite = suite

    def verb(self, verb: str, *arguments: str) -> None:
        command = [str(HOST), verb, "--name", self.name, *arguments]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    def shell(
        self, script: str, user: str | None = None, *, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script that ends at its first error; say what it printed if it fails."""
        done = self.run("sh", "-ec", f"cd /; {script}", user=user, check=False, input=stdin)
        assert not check or done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done

    def out(self, script: str, user: str | None = None) -> str:
        return self.shell(script, user).stdout.strip()

    def states(self, *units: str) -> list[str]:
        """Return the active state of each system unit."""
        return self.shell(f"systemctl is-active {' '.join(units)}", check=False).stdout.split()

    def user_manager(self) -> str:
        return f"user@{self.out('id -u sparkd')}.service"

    def install(self) -> str:
        return self.out(f"DEBIAN_FRONTEND=noninteractive apt-get install -qy {DEB}")

    def purge(self) -> str:
        return self.out("DEBIAN_FRONTEND=noninteractive apt-get purge -qy sparkd")

    def start_stand_in(self) -> str:
        """Start a process in a scope as models have one; return its pid."""
        self.shell(
            "setsid systemd-run --user --scope --slice=sparkd.slice "
            f"--unit='{MODEL_SCOPE}' sleep 4244 >/dev/null 2>&1 &",
            "sparkd",
        )
        self.wait_until(
            lambda: self.shell("pgrep -x sleep -u sparkd", check=False).returncode == 0,
            "the stand-in for a model runs",
        )
        return self.out("pgrep -x sleep -u sparkd")


@pytest.fixture(scope="module")
def deb() -> Path:
    subprocess.run([ROOT / "packaging/build-deb.sh"], check=True, stdin=subprocess.DEVNULL)
    (built,) = (ROOT / "dist").glob("sparkd_*_all.deb")
    return built


@pytest.fixture(scope="module", params=["trixie", "bookworm"])
def machine(request: pytest.FixtureRequest, deb: Path) -> Iterator[Machine]:
    machine = Machine(request.param)
    machine.verb("up", "--no-deb", "--suite", machine.suite)
    # A plain host has a user made by hand; these tests are about the package making it.
    machine.shell(
        f"loginctl disable-linger sparkd; systemctl stop {machine.user_manager()};"
        f"userdel sparkd; rm -r {HOME}"
    )
    machine.verb("cp", str(deb), DEB)
    machine.shell(
        f"dpkg-deb -R {DEB} /root/next && sed -i 's/^Version: .*/&+next/' /root/next/DEBIAN/control"
        f" && dpkg-deb -b /root/next {NEXT_DEB}"
    )
    yield machine
    machine.close()
    machine.verb("down")


@pytest.fixture
def installed(machine: Machine) -> Machine:
    if machine.shell("dpkg -s sparkd", check=False).returncode:
        machine.install()
    return machine


@pytest.fixture
def bare(machine: Machine) -> Machine:
    if machine.shell("dpkg -s sparkd", check=False).returncode == 0:
        machine.purge()
    machine.shell(f"rm -rf {HOME}")
    return machine


@pytest.fixture
def listening(installed: Machine) -> Iterator[Machine]:
    installed.shell("systemctl enable --now sparkd.socket; systemctl stop sparkd.service")
    installed.wait_until(
        lambda: installed.states("sparkd-drop-caches.path") == ["active"], "it watches the file"
    )
    yield installed
    installed.shell(
        "systemctl disable --now sparkd.socket; systemctl stop sparkd.service", check=False
    )


def test_install_makes_a_user_without_shell_in_the_group_of_the_journal(
    installed: Machine,
) -> None:
    account = installed.out("getent passwd sparkd").split(":")
    assert account[5:] == [HOME, "/usr/sbin/nologin"]
    assert installed.out("id -nG sparkd").split() == ["sparkd", "systemd-journal"]


def test_install_makes_the_directories_and_locks(installed: Machine) -> None:
    places = {
        "/run/sparkd": "755 sparkd:sparkd directory",
        "/run/sparkd/locks": "700 sparkd:sparkd directory",
        "/run/sparkd/models": "700 sparkd:sparkd directory",
        "/run/sparkd/gpu.lock": "640 sparkd:sparkd regular empty file",
        "/run/sparkd/lane.lock": "640 sparkd:sparkd regular empty file",
        f"{HOME}/models": "755 sparkd:sparkd directory",
        f"{HOME}/cache": "750 sparkd:sparkd directory",
        f"{HOME}/files": "755 sparkd:sparkd directory",
        f"{HOME}/stats": "750 sparkd:sparkd directory",
    }
    found = installed.out(f"stat -c '%n %a %U:%G %F' {' '.join(places)}")
    assert dict(line.split(" ", 1) for line in found.splitlines()) == places


def test_install_starts_the_user_manager_and_its_podman_socket_only(installed: Machine) -> None:
    assert installed.states(installed.user_manager()) == ["active"]
    assert installed.out("systemctl --user is-active podman.socket", "sparkd") == "active"
    assert installed.states("sparkd.socket", "sparkd.service") == ["inactive"] * 2
    assert installed.shell("systemctl is-enabled sparkd.socket", check=False).returncode == 1


def test_user_manager_has_no_memlock_limit_and_all_controllers(installed: Machine) -> None:
    manager = installed.user_manager()
    names = ("LimitMEMLOCK", "LimitNOFILE", "DelegateControllers")
    limits = installed.out(f"systemctl show {' '.join(f'-p {name}' for name in names)} {manager}")
    assert set(limits.splitlines()) == {
        "LimitMEMLOCK=infinity",
        "LimitNOFILE=1048576",
        "DelegateControllers=cpu cpuset io memory pids",
    }
    # On a host whose own root may not raise limits, the most that systemd can give is its own.
    hard = "awk '/^Max locked memory/ {print $5}' /proc/%s/limits"
    given = installed.out(hard % f"$(systemctl show -P MainPID {manager})")
    assert given in {"unlimited", installed.out(hard % "1")}


def test_rootless_podman_stores_layers_in_overlays(installed: Machine) -> None:
    driver = installed.out("podman info --format '{{.Store.GraphDriverName}}'", "sparkd")
    assert driver == "overlay"
    maps = installed.out("podman unshare awk '{print $3}' /proc/self/uid_map", "sparkd")
    assert maps.split() == ["1", "65536"]


def test_install_makes_a_random_key_and_says_where_without_showing_it(bare: Machine) -> None:
    said = bare.install()
    key = bare.out("cat /etc/sparkd/api-key")
    assert re.fullmatch(r"sk-sparkd-[A-Za-z0-9_-]{43}", key)
    assert bare.out("stat -c '%a %U:%G' /etc/sparkd/api-key") == "640 root:sparkd"
    assert "/etc/sparkd/api-key" in said
    assert "sudo sparkctl key show" in said
    assert key not in said
    bare.purge()
    bare.install()
    assert bare.out("cat /etc/sparkd/api-key") != key


def test_key_is_readable_by_sparkd_and_by_no_other_user(installed: Machine) -> None:
    reading = "setpriv --reuid {} --regid {} --clear-groups cat /etc/sparkd/api-key"
    installed.shell(reading.format("sparkd", "sparkd"))
    assert installed.shell(reading.format("nobody", "nogroup"), check=False).returncode == 1


def test_install_compiles_every_module(installed: Machine) -> None:
    sources = installed.out("find /usr/lib/sparkd -name '*.py' | wc -l")
    compiled = installed.out("find /usr/lib/sparkd -name '*.pyc' -size +0 | wc -l")
    assert int(sources) > 100
    assert compiled == sources


def test_units_pass_systemds_own_check(installed: Machine) -> None:
    units = "/usr/lib/systemd/system/sparkd* /usr/lib/systemd/system/run-sparkd*"
    assert installed.out(f"systemd-analyze verify --man=no {units}") == ""
    user_units = "/usr/lib/systemd/user/sparkd*"
    # Hosts of the tests have no man(1); that each page exists is looked at where it is built.
    assert installed.out(f"systemd-analyze --user verify --man=no {user_units}", "sparkd") == ""


def test_own_test_of_the_package_passes(installed: Machine) -> None:
    """What autopkgtest would run, on a host as it would make one."""
    installed.verb("cp", str(ROOT / "packaging/debian/tests/smoke"), "/root/smoke")
    assert installed.out("sh /root/smoke 2>&1").endswith("smoke: all is well")
    try:
        installed.shell("echo 'nonsense: 1' >>/etc/sparkd/sparkd.yaml")
        assert installed.shell("sh /root/smoke", check=False).returncode == 1
    finally:
        installed.shell("sed -i '/^nonsense/d' /etc/sparkd/sparkd.yaml")
        installed.shell("systemctl stop sparkd.socket sparkd.service")


def test_exposure_of_the_services_is_low(installed: Machine) -> None:
    for name in ("sparkd", "sparkd-drop-caches", "sparkd-preload"):
        installed.shell(f"systemd-analyze security --threshold=12 {name}.service")


def test_every_control_group_above_the_gateway_protects_its_memory(installed: Machine) -> None:
    installed.shell("systemctl start sparkd.service")
    group = installed.out("systemctl show -P ControlGroup sparkd.service")
    asked = installed.out("systemctl show -P MemoryMin sparkd.service")
    above = [part for part in group.split("/") if part.endswith(".slice")]
    assert int(asked) > 0
    assert above
    for unit in above:
        assert installed.out(f"systemctl show -P MemoryMin {unit}") == asked


def test_subordinate_ids_avoid_those_of_others(bare: Machine) -> None:
    bare.shell("echo a:100000:65536 >/etc/subuid; echo b:165536:10 >/etc/subgid")
    bare.shell("echo c:300000:65536 >>/etc/subuid")
    bare.install()
    assert bare.out("grep sparkd /etc/subuid /etc/subgid").splitlines() == [
        "/etc/subuid:sparkd:165546:65536",
        "/etc/subgid:sparkd:165546:65536",
    ]
    bare.purge()
    assert bare.out("cat /etc/subuid /etc/subgid").split() == [
        "a:100000:65536",
        "c:300000:65536",
        "b:165536:10",
    ]
    bare.shell(": >/etc/subuid; : >/etc/subgid")


def test_install_where_systemd_does_not_run_takes_effect_at_boot(bare: Machine) -> None:
    bare.shell(f"unshare -m sh -ec 'mount -t tmpfs none /run/systemd; dpkg -i {DEB}'")
    assert bare.states(bare.user_manager()) == ["inactive"]
    bare.reboot()
    assert bare.states(bare.user_manager()) == ["active"]
    assert bare.out("systemctl --user is-active podman.socket", "sparkd") == "active"
    assert "LimitMEMLOCK=infinity" in bare.out(
        f"systemctl show -p LimitMEMLOCK {bare.user_manager()}"
    )


def test_first_connection_starts_the_service(listening: Machine) -> None:
    assert listening.states("sparkd.socket", "sparkd.service") == ["active", "inactive"]
    listening.shell("curl -sSf -m 60 http://127.0.0.1:8009/healthz")
    assert listening.states("sparkd.socket", "sparkd.service") == ["active", "active"]


def test_socket_outlives_a_service_that_cannot_start(listening: Machine) -> None:
    drop_in = "/run/systemd/system/sparkd.service.d"
    listening.shell(f"mkdir -p {drop_in}")
    listening.shell(f"printf '[Service]\\nExecStartPre=/bin/false\\n' >{drop_in}/broken.conf")
    listening.shell("systemctl daemon-reload; systemctl stop sparkd.service 2>&1")
    refused = listening.shell("curl -sS -m 5 http://127.0.0.1:8009/healthz", check=False)
    # 28: it waited for an answer. A socket that had failed would refuse the connection: 7.
    assert refused.returncode == 28
    assert listening.states("sparkd.socket") == ["active"]
    attempts = int(listening.out("systemctl show -P NRestarts sparkd.service"))
    assert 1 <= attempts <= 5
    listening.shell(f"rm -r {drop_in}; systemctl daemon-reload")
    listening.shell("curl -sSf -m 60 http://127.0.0.1:8009/healthz")


def test_missing_key_file_is_told_to_who_asks(listening: Machine) -> None:
    listening.shell("mv /etc/sparkd/api-key /root/api-key; systemctl stop sparkd.service 2>&1")
    try:
        listening.shell("curl -sSf -m 60 http://127.0.0.1:8009/healthz")
        models = "http://127.0.0.1:8009/v1/models"
        told = listening.out(f"curl -sS -m 60 {models} -H 'Authorization: Bearer any'")
        assert "api-key" in told
        assert "sudo sparkctl key rotate" in told
    finally:
        listening.shell("mv /root/api-key /etc/sparkd/api-key; systemctl stop sparkd.service 2>&1")


def test_service_reaches_the_user_manager_after_that_was_restarted(listening: Machine) -> None:
    listening.shell("curl -sSf -m 60 http://127.0.0.1:8009/healthz")
    main = listening.out("systemctl show -P MainPID sparkd.service")
    listening.shell(f"systemctl restart {listening.user_manager()}")
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    listening.shell(
        f"nsenter -t {main} -m -- setpriv --reuid sparkd --clear-groups "
        f"python3 -c '{connect}' /run/user/$(id -u sparkd)/bus"
    )


def test_container_never_drops_the_cache_of_its_machine(listening: Machine) -> None:
    checked = "systemctl show -P ConditionTimestampMonotonic sparkd-drop-caches.service"
    before = listening.out(checked)
    listening.shell("touch /run/sparkd/drop-caches", "sparkd")
    listening.wait_until(lambda: listening.out(checked) != before, "systemd saw the touch")
    shown = listening.out(
        "systemctl show -p ConditionResult -p ExecMainPID sparkd-drop-caches.service"
    )
    assert set(shown.splitlines()) == {"ConditionResult=no", "ExecMainPID=0"}


def test_each_touch_of_the_file_is_seen(listening: Machine) -> None:
    overrides = "/run/systemd/system/sparkd-drop-caches.service.d"
    # The real command works on the machine's own kernel, which no test may touch; this one counts.
    stand_in = """
        [Unit]
        ConditionPathIsReadWrite=
        [Service]
        ExecStart=
        ExecStart=/bin/sh -c 'echo seen >>/run/drops/log'
        ReadWritePaths=/run/drops
    """

    def seen_and_done(count: int) -> bool:
        seen = listening.out("cat /run/drops/log").split()
        done = listening.states("sparkd-drop-caches.service") == ["inactive"]
        return done and seen == ["seen"] * count

    try:
        listening.shell(
            f"mkdir -p {overrides} /run/drops; touch /run/drops/log; cat >{overrides}/test.conf",
            stdin=stand_in,
        )
        listening.shell("systemctl daemon-reload")
        shown = listening.out("systemctl show -P ExecStart sparkd-drop-caches.service")
        assert "drop_caches" not in shown
        # More often than systemd's default start limit would bear.
        for count in range(1, 9):
            listening.shell("touch /run/sparkd/drop-caches", "sparkd")
            listening.wait_until(partial(seen_and_done, count), f"touch {count} was seen")
        assert listening.states("sparkd-drop-caches.path") == ["active"]
    finally:
        listening.shell(f"rm -rf {overrides} /run/drops; systemctl daemon-reload")


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_idle_pass_that_is_killed_runs_again(installed: Machine, signal: str) -> None:
    unit = "sparkd-idle@stand\\x2din.service"
    overrides = f"{HOME}/.config/systemd/user/sparkd-idle@.service.d"
    # The pass itself is over too soon to be killed.
    stand_in = "[Service]\nExecStart=\nExecStart=sh -c 'echo %I >>~/passes; sleep 4245'\n"

    def passes() -> list[str]:
        return installed.shell("cat ~/passes", "sparkd", check=False).stdout.split()

    try:
        installed.shell(f"mkdir {overrides}; cat >{overrides}/test.conf", "sparkd", stdin=stand_in)
        installed.shell("systemctl --user daemon-reload", "sparkd")
        installed.shell(f"systemctl --user start --no-block '{unit}'", "sparkd")
        installed.wait_until(lambda: passes() == ["stand-in"], "the pass runs")
        installed.shell(f"systemctl --user kill -s {signal} '{unit}'", "sparkd")
        installed.wait_until(lambda: passes() == ["stand-in"] * 2, "the pass runs again")
    finally:
        installed.shell(f"rm -rf {overrides} ~/passes; systemctl --user daemon-reload", "sparkd")
        installed.shell(f"systemctl --user stop '{unit}'", "sparkd")


def test_upgrade_leaves_models_port_key_and_settings_alone(listening: Machine) -> None:
    listening.shell("curl -sSf -m 60 http://127.0.0.1:8009/healthz")
    listening.shell("echo '# mine' >>/etc/sparkd/sparkd.yaml")
    model = listening.start_stand_in()
    listening_inode = "stat -Lc %i /proc/1/fd/* 2>/dev/null | sort | grep -Fxf /root/inodes"
    listening.shell("ss -Htlne 'sport = 8009' | grep -o 'ino:[0-9]*' | cut -c5- >/root/inodes")
    key = listening.out("cat /etc/sparkd/api-key")
    main = listening.out("systemctl show -P MainPID sparkd.service")

    listening.shell(f"dpkg -i --force-confold {NEXT_DEB}")

    assert listening.out("pgrep -x sleep -u sparkd") == model
    assert listening.states("sparkd.socket") == ["active"]
    assert listening.out(listening_inode) == listening.out("cat /root/inodes")
    assert listening.out("cat /etc/sparkd/api-key") == key
    assert listening.out("tail -1 /etc/sparkd/sparkd.yaml") == "# mine"
    listening.wait_until(
        lambda: listening.out("systemctl show -P MainPID sparkd.service") not in {main, "0"},
        "another sparkd runs",
    )
    listening.shell("curl -sSf -m 60 http://127.0.0.1:8009/healthz")
    listening.purge()


def test_upgrade_does_not_start_a_socket_that_was_stopped(installed: Machine) -> None:
    installed.shell(f"dpkg -i {NEXT_DEB}")
    assert installed.states("sparkd.socket", "sparkd.service") == ["inactive"] * 2
    installed.purge()


def test_remove_stops_models_and_port_and_reinstall_finds_all_as_it_was(
    listening: Machine,
) -> None:
    key = listening.out("cat /etc/sparkd/api-key")
    listening.start_stand_in()
    listening.shell("DEBIAN_FRONTEND=noninteractive apt-get remove -qy sparkd")
    assert listening.shell("ps -o pid= -u sparkd", check=False).stdout == ""
    assert listening.shell("curl -s http://127.0.0.1:8009/", check=False).returncode == 7
    assert listening.out("ls /var/lib/systemd/linger") == ""

    listening.install()

    assert listening.out("cat /etc/sparkd/api-key") == key
    assert listening.out("systemctl is-enabled sparkd.socket") == "enabled"
    assert listening.states(listening.user_manager()) == ["active"]


def test_purge_leaves_nothing_behind(listening: Machine) -> None:
    uid = listening.out("id -u sparkd")
    # A layer of an image has files of subordinate ids, in directories closed to everyone else.
    listening.shell(
        "podman unshare sh -c 'mkdir -p ~/.local/share/containers/storage/layer && "
        "cd ~/.local/share/containers/storage/layer && touch file && "
        "chmod 700 . && chown -R 500:500 .'",
        "sparkd",
    )
    listening.start_stand_in()

    said = listening.purge()

    assert "kept" not in said
    assert listening.shell("ps -o pid= -u " + uid, check=False).stdout == ""
    # What systemd has in /run comes and goes.
    find = "find {0} -ignore_readdir_race -xdev {1}"
    named = find.format("/", "-path /root -prune -o -name '*sparkd*' ! -path '/tmp/*' -print")
    assert [
        path for path in listening.out(named).splitlines() if not path.startswith("/var/log/")
    ] == []
    owned = find.format("/ /run /dev/shm", f"\\( -uid {uid} -o -nouser \\)")
    assert listening.out(owned) == ""
    mentions = "grep -l sparkd /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/sub?id"
    assert listening.shell(mentions, check=False).stdout == ""


def test_purge_keeps_weights_and_says_how_to_delete_them(installed: Machine) -> None:
    installed.shell(f"mkdir {HOME}/models/org && echo w >{HOME}/models/org/weights", "sparkd")

    said = installed.purge()

    assert f"kept the downloaded weights in {HOME}/models" in said
    assert f"rm -r {HOME}" in said
    assert installed.out(f"ls -A {HOME}") == "models"
    assert installed.out(f"find {HOME} ! -user root") == ""

    installed.install()
    assert installed.out(f"cat {HOME}/models/org/weights", "sparkd") == "w"
    installed.shell(f"mkdir {HOME}/models/other && rmdir {HOME}/models/other", "sparkd")
    installed.shell(f"rm -r {HOME}/models/org")
