# SPDX-License-Identifier: Apache-2.0
"""Who tries to get out, and does not: programs inside a model's container, in the gateway's own
sandbox, and of another user of the host.

A probe tries everything and says what came of each attempt: `done`, or the name of the error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .hosts import SETTINGS, Host, answer_of

LAN = "10.99.0.1"
"""An address of the host that is not its loopback."""
WEIGHTS = "/var/lib/sparkd/models/walls"
CATALOG_FILE = "/etc/sparkd/models.d/walls.yaml"
CATALOG = f"""\
models:
  walls:
    image: localhost/sparkd-fake-vllm:latest
    weights: {{path: {WEIGHTS}}}
    args: [--fake-load-seconds, 0.1]
    load_timeout: 60s
    idle_timeout: 10m
"""
PROBE_UNIT = "/run/systemd/system/sparkd-probe.service"

TRY = r"""
import ctypes, errno, json, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
results = {}
def attempt(name, work):
    try:
        work()
        results[name] = "done"
    except OSError as error:
        results[name] = errno.errorcode.get(error.errno, type(error).__name__)
def call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")
def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
def connect(address):
    if isinstance(address, str):
        socket.socket(socket.AF_UNIX).connect(address)
    else:
        socket.create_connection(address, 2).close()
def status():
    lines = (line.partition(":") for line in open("/proc/self/status"))
    return {name: value.strip() for name, _, value in lines}
def processes():
    pids = filter(str.isdigit, os.listdir("/proc"))
    return sorted(open(f"/proc/{pid}/comm").read().strip() for pid in pids)
def trying(outside):
    attempt("signal outside", lambda: os.kill(outside, 0))
    attempt("trace outside", lambda: call(libc.ptrace, 16, outside, 0, 0))
    attempt("mount", lambda: call(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None))
    attempt("host name", lambda: call(libc.sethostname, b"x", 1))
    attempt("drop caches", lambda: write("/proc/sys/vm/drop_caches"))
    attempt("program for the kernel", lambda: call(libc.syscall, BPF, 0, 0, 0))
    attempt("packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    attempt("node", lambda: os.mknod("/tmp/node", 0o20600, os.makedev(1, 1)))
    attempt("other user", lambda: os.setuid(4242))
    attempt("lan", lambda: connect((LAN, 8009)))
    results["status"] = status()
    results["devices"] = sorted(os.listdir("/dev"))
def becoming_root_of_a_namespace():
    # Last, as whoever succeeds has every capability in it.
    attempt("new namespaces", lambda: call(libc.unshare, 0x10020000))
    attempt("mount in it", lambda: call(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None))
BPF = {"x86_64": 321}.get(os.uname().machine, 280)
"""

FROM_CONTAINER = r"""
trying(OUTSIDE)
for path in ("/x", "/usr/x", "/etc/x", "/models/walls/x", "/run/sparkd/gpu.lock"):
    attempt("write " + path, lambda: write(path))
attempt("key", lambda: open("/etc/sparkd/api-key"))
attempt("bus", lambda: connect("/run/user/%d/bus" % os.getuid()))
attempt("other model", lambda: connect("/run/sparkd/models/fake-util/api.sock"))
attempt("gateway", lambda: connect(("127.0.0.1", 8009)))
results["processes"] = processes()
results["interfaces"] = [name for _, name in socket.if_nameindex()]
results["uid_map"] = open("/proc/self/uid_map").read().split()
results["endpoint"] = os.listdir("/run/sparkd/endpoint")
becoming_root_of_a_namespace()
print(json.dumps(results))
"""

FROM_GATEWAY = r"""
trying(OUTSIDE)
for place in ("", "/usr", "/etc", "/home", "/root", "/boot", "/etc/sparkd", "/run",
              "/var/lib/sparkd/models", "/var/lib/sparkd/.config"):
    attempt(f"write {place}/x", lambda: write(f"{place}/x"))
for path in ("/run/sparkd/x", "/var/lib/sparkd/stats/x", "/tmp/x"):
    attempt("write " + path, lambda: (write(path), os.unlink(path)))
attempt("shadow", lambda: open("/etc/shadow"))
attempt("signal init", lambda: os.kill(1, 0))
attempt("routes", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("code", lambda: __import__("mmap").mmap(-1, 4096, prot=7))
becoming_root_of_a_namespace()
print(json.dumps(results))
"""


def script(part: str, outside: int) -> str:
    return f"LAN, OUTSIDE = {LAN!r}, {outside}\n{TRY}\n{part}"


@pytest.fixture(scope="module")
def walled(trixie: Host) -> Iterator[Host]:
    """A host with two models running, one of them with weights, and a LAN address it answers at."""
    trixie.stop_models()
    trixie.configure(SETTINGS)
    trixie.sh(
        f"ip addr add {LAN}/32 dev lo; mkdir -p {WEIGHTS}; echo '{{}}' >{WEIGHTS}/config.json"
    )
    with trixie.file(CATALOG_FILE, CATALOG):
        trixie.run("systemctl", "stop", "sparkd.service")
        for model in ("fake-util", "walls"):
            answer_of(trixie.chat(model))
        with widened(trixie):
            yield trixie
        trixie.stop_models()
    trixie.sh(f"ip addr del {LAN}/32 dev lo; rm -r {WEIGHTS}")


class widened:  # noqa: N801 (reads as a verb)
    """The socket listens at the LAN address too, with whatever else its drop-in says."""

    def __init__(self, host: Host, *more: str) -> None:
        self.host, self.more = host, more

    def __enter__(self) -> None:
        drop_in = "/run/systemd/system/sparkd.socket.d"
        self.host.sh(f"mkdir -p {drop_in}")
        text = "\n".join(["[Socket]", f"ListenStream={LAN}:8009", *self.more, ""])
        self.host.run("tee", f"{drop_in}/lan.conf", input=text)
        self._apply()

    def __exit__(self, *_: object) -> None:
        self.host.sh("rm -rf /run/systemd/system/sparkd.socket.d")
        self._apply()

    def _apply(self) -> None:
        self.host.sh("systemctl daemon-reload; systemctl stop sparkd.service")
        self.host.run("systemctl", "restart", "sparkd.socket")


def outside_pid(host: Host) -> int:
    """A process of the user sparkd that is in no container: its own service manager."""
    return int(host.sh("systemctl show -p MainPID --value user@$(id -u sparkd).service"))


@pytest.fixture(scope="module")
def container(walled: Host) -> dict[str, Any]:
    """What a program beside the engine, with all that the engine has, could do."""
    said = walled.run(
        *("podman", "exec", "--interactive", "sparkd-model-walls", "python3", "-"),
        user="sparkd",
        input=script(FROM_CONTAINER, outside_pid(walled)),
    )
    found: dict[str, Any] = json.loads(said.stdout)
    return found


@pytest.fixture(scope="module")
def gateway(walled: Host) -> dict[str, Any]:
    """What a program in a unit that is sparkd.service but for what it runs could do."""
    keep = "grep -vE '^(Type|NotifyAccess|Exec|Restart|Watchdog|RuntimeDirectory|Requires|After)'"
    unit = walled.sh(f"{keep} /usr/lib/systemd/system/sparkd.service")
    unit += "\nType=oneshot\nReadWritePaths=/run/sparkd\nExecStart=/usr/bin/python3 /run/probe.py\n"
    walled.run("tee", "/run/probe.py", input=script(FROM_GATEWAY, outside_pid(walled)))
    walled.run("tee", PROBE_UNIT, input=unit)
    try:
        cursor = walled.cursor()
        walled.sh("systemctl daemon-reload; systemctl start sparkd-probe.service")
        lines = walled.journal("_SYSTEMD_UNIT=sparkd-probe.service", since=cursor)
        found: dict[str, Any] = json.loads(lines[-1]["MESSAGE"])
        return found
    finally:
        walled.sh(f"rm {PROBE_UNIT} /run/probe.py; systemctl daemon-reload")


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
    assert len(written) == 5
    assert set(written.values()) == {"EROFS"}, written


def test_container_sees_and_signals_no_process_outside(container: dict[str, Any]) -> None:
    assert not {"systemd", "conmon", "sparkd"} & set(container["processes"])
    assert container["signal outside"] == container["trace outside"] == "ESRCH"


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


def test_models_are_killed_before_the_gateway_when_memory_runs_out(walled: Host) -> None:
    # What the unit says, as no process of a test host may have less than its systemd.
    gateway = walled.sh("systemctl show -p OOMScoreAdjust --value sparkd.service")
    model = walled.sh("podman inspect -f '{{.State.Pid}}' sparkd-model-walls", user="sparkd")
    assert int(gateway) < 0 < int(walled.sh(f"cat /proc/{model}/oom_score_adj"))


def test_socket_of_the_lan_is_served_and_its_list_of_addresses_holds(walled: Host) -> None:
    def answer(address: str) -> str:
        return walled.sh(f"curl -s -m 5 http://{address}:8009/healthz", check=False)

    assert (answer(LAN), answer("127.0.0.1")) == ("ok", "ok")
    with widened(walled, "IPAddressDeny=any", "IPAddressAllow=localhost"):
        assert (answer(LAN), answer("127.0.0.1")) == ("", "ok")
    with widened(walled, "IPAddressDeny=any", f"IPAddressAllow=localhost {LAN}/32"):
        assert (answer(LAN), answer("127.0.0.1")) == ("ok", "ok")


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


def test_model_that_ignores_every_signal_still_has_to_go(walled: Host) -> None:
    answer_of(walled.chat("fake-stubborn"))
    walled.run("sparkctl", "stop", "fake-stubborn")
    assert walled.sh("pgrep -f '[f]ake-ignore-signals'", check=False) == ""
    walled.run("flock", "-n", "/run/sparkd/lane.lock", "true")
