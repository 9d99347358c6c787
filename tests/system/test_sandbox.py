# SPDX-License-Identifier: Apache-2.0
"""Who tries to get out, and does not: programs inside a model's container, in the gateway's own
sandbox, and of another user of the host.

A probe tries everything and says what came of each attempt: `done`, or the name of the error.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from sparkd.core.container.spec import SECCOMP_PROFILE

from .hosts import Host, answer_of
from .probes import LAN, LAN6, in_container, in_gateway, in_idle_pass, models_running

FILLING = """
import errno, os, sys
os.chdir(sys.argv[1])
def until_full(work):
    try:
        while True:
            work()
    except OSError as error:
        return errno.errorcode[error.errno]
def nest():
    os.mkdir("d")
    os.chdir("d")
with open("file", "wb", buffering=0) as file:
    said = until_full(lambda: file.write(bytes(1 << 16))), until_full(nest)
os.chmod(".", 0)
print(*said)
"""
"""Fills a directory with a file, and with directories in each other of which the last is closed."""


@pytest.fixture(scope="module")
def walled(trixie: Host) -> Iterator[Host]:
    """A host with two models running, one of them with weights, and addresses of a LAN."""
    trixie.run("systemctl", "start", "sparkd.socket")
    trixie.sh(f"ip addr replace {LAN}/32 dev lo; ip addr replace {LAN6}/128 dev lo")
    with models_running(trixie, "fake-util"), widened(trixie):
        yield trixie
    trixie.sh(f"ip addr del {LAN}/32 dev lo; ip addr del {LAN6}/128 dev lo")


class widened:  # noqa: N801 (reads as a verb)
    """The socket listens on the LAN too, with whatever else its drop-in says."""

    def __init__(self, host: Host, *more: str) -> None:
        self.host, self.more = host, more

    def __enter__(self) -> None:
        drop_in = "/run/systemd/system/sparkd.socket.d"
        self.host.sh(f"mkdir -p {drop_in}")
        lan = (f"ListenStream={LAN}:8009", f"ListenStream=[{LAN6}]:8009")
        text = "\n".join(["[Socket]", *lan, *self.more, ""])
        self.host.run("tee", f"{drop_in}/lan.conf", input=text)
        self._apply()

    def __exit__(self, *_: object) -> None:
        self.host.sh("rm -rf /run/systemd/system/sparkd.socket.d")
        self._apply()

    def _apply(self) -> None:
        self.host.sh("systemctl daemon-reload; systemctl stop sparkd.service")
        self.host.run("systemctl", "restart", "sparkd.socket")


@pytest.fixture(scope="module")
def container(walled: Host) -> dict[str, Any]:
    """What a program beside the engine, with all that the engine has, could do."""
    return in_container(walled, "walls")


@pytest.fixture(scope="module")
def gateway(walled: Host) -> dict[str, Any]:
    """What a program in a unit that is sparkd.service but for what it runs could do."""
    return in_gateway(walled)


def test_container_has_no_network(container: dict[str, Any]) -> None:
    assert container["interfaces"] == ["lo"]
    assert container["gateway"] == "ECONNREFUSED", "its loopback is its own"
    assert container["lan"] == "ENETUNREACH"


def test_container_sees_neither_keys_nor_the_bus_nor_other_models(
    container: dict[str, Any],
) -> None:
    assert [container[name] for name in ("key", "bus", "other model")] == ["ENOENT"] * 3
    assert container["endpoint"] == ["api.sock"]


def test_container_can_write_neither_weights_nor_locks_nor_its_root(
    container: dict[str, Any],
) -> None:
    written = {name: said for name, said in container.items() if name.startswith("write ")}
    places = ("/tmp", "/var/tmp", "/run", "/dev/shm", "/cache", "/run/sparkd/endpoint")
    mine = {f"write {place}/x" for place in places}
    assert {name for name, said in written.items() if said == "done"} == mine
    assert {said for name, said in written.items() if name not in mine} == {"EROFS"}
    assert len(written) == 11


def test_container_fills_no_more_than_the_small_place_of_sockets_and_leaves_nothing_there(
    walled: Host,
) -> None:
    """And while that is full, a model that wants to start is told so."""
    free = "stat --file-system --format=%f /run"
    walled.run("sparkctl", "stop", "walls")
    before = int(walled.sh(free))
    filling = f"python3 -c {shlex.quote(FILLING)} /run/sparkd/endpoint"
    inside = f"podman exec sparkd-model-fake-util {filling}"
    assert walled.sh(inside, user="sparkd") == "ENOSPC ENOSPC"
    assert before - int(walled.sh(free)) < 25_600, "blocks, a hundred megabytes"
    assert answer_of(walled.chat("fake-util")) == "echo: hello"
    refused = walled.chat("walls").json()["error"]
    assert refused["code"] == "host_error"
    assert "No space left on device" in refused["message"]
    assert "df -i /run/sparkd/models" in refused["hint"]
    walled.run("sparkctl", "stop", "fake-util")
    assert walled.sh("ls -A /run/sparkd/models") == ""
    for model in ("fake-util", "walls"):
        answer_of(walled.chat(model))


def test_container_sees_and_signals_no_process_outside(container: dict[str, Any]) -> None:
    assert not {"systemd", "conmon", "sparkd"} & set(container["processes"])
    assert container["signal outside"] == "ESRCH"
    assert container["trace outside"] == "EPERM"


def test_container_has_no_capability_and_can_gain_none(container: dict[str, Any]) -> None:
    status = container["status"]
    sets = {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert sets == {"0000000000000000"}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert container["other user"] == "EPERM"
    assert container["uid_map"][1] != "0", "its root is not the host's"


def test_container_can_ask_nothing_of_the_kernel_that_is_for_root(
    container: dict[str, Any],
) -> None:
    asked = ("mount", "host name", "program for the kernel", "node", "packets")
    assert {container[name] for name in asked} <= {"EPERM", "ENOSYS"}
    assert container["drop caches"] in ("EROFS", "EACCES")
    assert not {"mem", "kmsg", "sda", "fuse"} & set(container["devices"])


def test_container_makes_no_namespace_and_no_call_that_is_not_for_it(
    container: dict[str, Any],
) -> None:
    calls = {name: said for name, said in container.items() if name.startswith("call ")}
    assert len(calls) == 33
    assert {name for name, said in calls.items() if said not in ("EPERM", "ENOSYS")} == set()
    assert calls["call clone3"] == "ENOSYS", "anything else, and libc would not fall back on clone"
    assert container["new namespaces"] == container["mount in it"] == "EPERM"


def test_container_makes_no_call_of_another_architecture(container: dict[str, Any]) -> None:
    assert container.get("x32", "SIGSYS") == "SIGSYS"


def test_what_a_container_may_call_podman_would_let_it_call_too(walled: Host) -> None:
    ours = json.loads(SECCOMP_PROFILE.read_text())
    theirs = json.loads(walled.sh("cat /usr/share/containers/seccomp.json"))
    assert allowed(ours) - allowed(theirs) == set()
    assert len(allowed(theirs) - allowed(ours)) > 50


def allowed(profile: dict[str, Any]) -> set[str]:
    """The calls that it lets through, some only with some arguments, without any capability."""
    rules = [rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
    plain = [rule for rule in rules if not (rule.get("includes") or {}).get("caps")]
    return {name for rule in plain for name in rule["names"]}


def test_engine_with_a_port_is_reached_from_this_machine_only(walled: Host) -> None:
    answer_of(walled.chat("walls-tcp"))
    label = '{{index .Config.Labels "io.sparkd.endpoint"}}'
    find = f"podman inspect -f '{label}' sparkd-model-walls-tcp"
    port = walled.sh(find, user="sparkd", check=False).rpartition(":")[2]
    ask = "curl -s -o /dev/null -m 60 -w '%{http_code}'"
    places = ("127.0.0.1", LAN, f"[{LAN6}]")
    said = [walled.sh(f"{ask} http://{place}:{port}/health", check=False) for place in places]
    walled.run("sparkctl", "stop", "walls-tcp")
    assert said == ["200", "000", "000"]


def test_gateway_writes_its_state_and_nothing_else(gateway: dict[str, Any]) -> None:
    written = {name: said for name, said in gateway.items() if name.startswith("write ")}
    allowed = {f"write {path}/x" for path in ("/run/sparkd", "/var/lib/sparkd/stats", "/tmp")}
    assert {name for name, said in written.items() if said == "done"} == allowed
    assert len(written) == 13


def test_gateway_has_no_capability_and_can_gain_none(gateway: dict[str, Any]) -> None:
    status = gateway["status"]
    sets = {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert sets == {"0000000000000000"}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    asked = ("mount", "new namespaces", "host name", "program for the kernel", "node", "code")
    assert {gateway[name] for name in asked} <= {"EPERM", "EACCES"}
    assert gateway["drop caches"] in ("EROFS", "EACCES")


def test_gateway_touches_no_process_of_others_and_traces_none_of_its_own_user(
    gateway: dict[str, Any],
) -> None:
    assert gateway["signal init"] == "EPERM"
    assert gateway["trace outside"] == "EPERM"
    assert gateway["shadow"] == "EACCES"


def test_gateway_opens_no_connection_to_another_machine(gateway: dict[str, Any]) -> None:
    assert gateway["lan"] not in ("done", "ECONNREFUSED")
    assert gateway["packets"] == gateway["routes"] == "EAFNOSUPPORT"


def test_gateway_sees_no_device_but_the_harmless_ones(gateway: dict[str, Any]) -> None:
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue"}
    others = {"char", "fd", "hugepages", "log", "stdin", "stdout", "stderr", "core"}
    assert set(gateway["devices"]) <= harmless | others


def test_idle_pass_has_no_capability_and_can_gain_none(walled: Host) -> None:
    found = in_idle_pass(walled)
    # What its manager may inherit comes from the host's container, and no file here passes it on.
    sets = {found["status"][name] for name in ("CapPrm", "CapEff", "CapAmb")}
    assert sets == {"0000000000000000"}
    assert (found["status"]["NoNewPrivs"], found["status"]["Seccomp"]) == ("1", "2")
    asked = ("mount", "new namespaces", "host name", "program for the kernel", "node", "code")
    assert {found[name] for name in asked} <= {"EPERM", "EACCES"}
    assert found["shadow"] == found["drop caches"] == "EACCES"
    assert (found["trace outside"], found["signal init"]) == ("EPERM", "EPERM")
    assert found["packets"] == found["routes"] == "EAFNOSUPPORT"


def test_models_are_killed_before_the_gateway_when_memory_runs_out(
    walled: Host, container: dict[str, Any]
) -> None:
    # What the unit says, as no process of a test host may have less than its systemd.
    gateway = walled.sh("systemctl show -p OOMScoreAdjust --value sparkd.service")
    assert (int(gateway), container["oom"]) == (-500, 200)


def test_socket_of_the_lan_is_served_and_its_list_of_addresses_holds(walled: Host) -> None:
    def served() -> set[str]:
        # Whom it is closed to waits in vain; the others meet a gateway that runs already.
        walled.sh("curl -s -o /dev/null -m 60 http://127.0.0.1:8009/healthz")
        ask = "curl -s -o /dev/null -m 5 http://$place:8009/healthz && echo $place"
        places = f"127.0.0.1 {LAN} [{LAN6}]"
        return set(walled.sh(f"for place in {places}; do ({ask}) & done; wait").split())

    everywhere = {"127.0.0.1", LAN, f"[{LAN6}]"}
    assert served() == everywhere
    with widened(walled, "IPAddressDeny=any", "IPAddressAllow=localhost"):
        assert served() == {"127.0.0.1"}
    with widened(walled, "IPAddressDeny=any", f"IPAddressAllow=localhost {LAN} {LAN6}"):
        assert served() == everywhere


@pytest.mark.parametrize(
    "attempt",
    [
        "cat /etc/sparkd/api-key",
        "ls /run/sparkd/models",
        "ls /run/sparkd/locks",
        "ls /var/lib/sparkd/stats",
        "curl -s --unix-socket /run/sparkd/models/walls/api.sock http://m/health",
        "curl -s --unix-socket /run/user/$SPARKD/podman/podman.sock http://m/_ping",
        "busctl --address=unix:path=/run/user/$SPARKD/bus list",
        "flock -n /run/sparkd/gpu.lock true",
        "touch /run/sparkd/drop-caches",
        "systemctl --no-ask-password stop sparkd.service",
    ],
)
def test_other_user_of_the_host_is_kept_out(walled: Host, attempt: str) -> None:
    other = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    words = f"export SPARKD=$(id -u sparkd); {other} sh -c {attempt!r}"
    assert walled.run("bash", "-c", words, check=False).returncode != 0


def test_link_that_the_user_sparkd_lays_leads_no_program_of_root_astray(walled: Host) -> None:
    # systemd-tmpfiles, at boot and by each upgrade, is the one that works for root where he writes.
    walled.sh("install -m 0700 -d /root/secret; install -m 0600 /dev/null /root/secret/file")
    lay = "mv {0} {0}.was && ln -s {1} {0}"
    laid = {"/var/lib/sparkd/soak": "/root/secret", "/run/sparkd/drop-caches": "/root/secret/file"}
    try:
        for path, target in laid.items():
            walled.sh(lay.format(path, target), user="sparkd")
        walled.run("systemd-tmpfiles", "--create", "sparkd.conf", check=False)
        owners = walled.sh("stat -c '%U %a' /root/secret /root/secret/file")
        assert owners.splitlines() == ["root 700", "root 600"]
    finally:
        for path in laid:
            walled.sh(f"rm {path}; mv {path}.was {path}", user="sparkd")
        walled.sh("rm -r /root/secret")


FORGE = r"""
import ctypes, socket, sys, time
container, scope = sys.argv[1:]
ctypes.CDLL(None).prctl(15, b"conmon", 0, 0, 0)  # PR_SET_NAME
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.connect("/run/systemd/journal/socket")
oom = "fe6faa94e7774663a0da52717891d8ef"
for fields in (f"CONTAINER_ID_FULL={container}", f"USER_UNIT={scope}\nMESSAGE_ID={oom}"):
    journal.send(f"MESSAGE=forged\n{fields}\n".encode())
time.sleep(300)  # journald looks at who wrote when it reads, and finds nobody who has ended.
"""
HEARD = """
import asyncio, json, sys
from sparkd.adapters.journal import reader
container, scope = sys.argv[1:]
async def heard():
    told = reader.read(*reader.container_output(container))
    print(json.dumps({
        "last lines": await reader.last_lines(container),
        "output": [line.decode() async for line in told],
        "killed for memory": await reader.killed_for_memory(scope, 0),
    }))
asyncio.run(heard())
"""


def test_other_user_of_the_host_puts_no_words_into_the_mouth_of_a_model(walled: Host) -> None:
    answer_of(walled.chat("walls"))
    find = "podman inspect -f '{{.Id}}' sparkd-model-walls"
    about = (walled.sh(find, user="sparkd"), "sparkd-model-walls.scope")
    reader = ("env", "PYTHONPATH=/usr/lib/sparkd", "python3", "-", *about)
    forged, cursor = ("_UID=65534", "_COMM=conmon", "MESSAGE=forged"), walled.cursor()
    other = ("systemd-run", "--quiet", "--collect", "--uid=65534", "--unit=forger")
    walled.run(*other, "python3", "-c", FORGE, *about)
    try:
        walled.wait_until(lambda: len(walled.journal(*forged, since=cursor)) == 2, "it is written")
    finally:
        walled.run("systemctl", "stop", "forger.service")
    heard = json.loads(walled.run(*reader, user="sparkd", input=HEARD).stdout)
    assert heard["output"]
    assert heard["last lines"]
    assert "forged" not in str(heard)
    assert heard["killed for memory"] is False


def test_model_that_ignores_every_signal_still_has_to_go(walled: Host) -> None:
    answer_of(walled.chat("fake-stubborn"))
    walled.run("sparkctl", "stop", "fake-stubborn")
    assert walled.sh("pgrep -f '[f]ake-ignore-signals'", check=False) == ""
    walled.wait_until(lambda: not walled.locked("/run/sparkd/lane.lock"), "the lane is free")


def test_container_sees_only_the_locks_that_its_class_takes(walled: Host) -> None:
    seen = "podman exec {} find /run/sparkd -name '*.lock'"
    answer_of(walled.chat("fake-util"))
    utility = walled.sh(seen.format("sparkd-model-fake-util"), user="sparkd").split()
    assert utility == ["/run/sparkd/gpu.lock"]
    answer_of(walled.chat("walls"))
    normal = walled.sh(seen.format("sparkd-model-walls"), user="sparkd").split()
    assert sorted(normal) == ["/run/sparkd/gpu.lock", "/run/sparkd/lane.lock"]
