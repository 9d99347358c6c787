# SPDX-License-Identifier: Apache-2.0
"""A program that tries to escape from a model's container or the gateway's sandbox.

It makes every attempt and reports the result of each: `done`, or the name of the error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .hosts import SETTINGS, Host, answer_of

WEIGHTS = "/var/lib/sparkd/models/walls"
CATALOG = f"""\
models:
  walls:
    image: localhost/sparkd-fake-vllm:latest
    weights: {{path: {WEIGHTS}}}
    args: [--fake-load-seconds, 0.1]
    load_timeout: 60s
    idle_timeout: 2h
  walls-tcp:
    image: localhost/sparkd-fake-vllm:latest
    lifecycle: utility
    transport: tcp
    args: [--fake-load-seconds, 0.1]
    load_timeout: 60s
    idle_timeout: 2h
"""
LAN, LAN6 = "10.99.0.1", "fd00:99::1"
"""Addresses of the host that are not its loopback."""
PROBE_UNIT = "/run/systemd/system/sparkd-probe.service"
USER_PROBE_UNIT = "/run/systemd/user/sparkd-probe.service"
PROBE_OUTPUT = "/run/probe.json"

TRY = r"""
import contextlib, ctypes, errno, json, os, signal, socket
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
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            found.append(open(f"/proc/{pid}/comm").read().strip())
    return sorted(found)
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
BPF = {"x86_64": 321}.get(os.uname().machine, 280)
"""

# Each as a program without capabilities may make it; what is not filtered does something here, or
# at least finds fault with the arguments.
FILTERED = r"""
NUMBERS = {  # of x86-64, and of all newer architectures
    "unshare": (272, 97), "clone": (56, 220), "clone3": (435, 435), "setns": (308, 268),
    "pivot_root": (155, 41), "umount2": (166, 39), "open_tree": (428, 428), "fsopen": (430, 430),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "add_key": (248, 217), "keyctl": (250, 219), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "kexec_load": (246, 104), "init_module": (175, 105), "delete_module": (176, 106),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "syslog": (103, 116),
}
def kernel(name, *arguments):
    number = NUMBERS[name][os.uname().machine != "x86_64"]
    call(libc.syscall, number, *arguments)
def clone(flags):
    # The child of one that succeeds returns here too.
    if libc.syscall(NUMBERS["clone"][os.uname().machine != "x86_64"], flags, 0, 0, 0, 0) == 0:
        os._exit(0)
    if ctypes.get_errno():
        raise OSError(ctypes.get_errno(), "refused")
def signal_of(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "none"
def filtered():
    me, user, new = os.getpid(), 0x10000000, signal.SIGCHLD
    file = os.open("/", os.O_RDONLY)
    arguments = {
        "clone3": (None, 0), "setns": (file, 0), "pivot_root": (b"/", b"/"),
        "umount2": (b"/proc", 0), "open_tree": (-100, b"/", 1), "fsopen": (b"tmpfs", 0),
        "ptrace": (3, me, 0, 0), "process_vm_readv": (me, None, 0, None, 0, 0),
        "process_vm_writev": (me, None, 0, None, 0, 0), "add_key": (b"user", b"x", b"x", 1, -2),
        "keyctl": (0, -3, 0), "bpf": (0, None, 0), "perf_event_open": (None, 0, -1, -1, 0),
        "userfaultfd": (1,), "io_uring_setup": (1, None), "kexec_load": (0, 0, None, 0),
        "init_module": (None, 0, b""), "delete_module": (b"x", 0),
        "open_by_handle_at": (file, None, 0), "name_to_handle_at": (-100, b"/", None, None, 0),
        "syslog": (10, None, 0), "unshare": (user,),
    }
    for name, values in arguments.items():
        attempt("call " + name, lambda: kernel(name, *values))
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        ctypes.set_errno(0)
        attempt(f"call clone {user | bit:#x}", lambda: clone(user | bit | new))
    for family in (17, 38, 40):
        attempt(f"call socket {family}", lambda: socket.socket(family, socket.SOCK_RAW))
    attempt("call socket audit", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9))
    if os.uname().machine == "x86_64":
        results["x32"] = signal_of(lambda: libc.syscall(0x40000000 | 39))
"""

FROM_CONTAINER = r"""
filtered()
for path in ("/x", "/usr/x", "/etc/x", "/models/walls/x", "/run/sparkd/gpu.lock"):
    attempt("write " + path, lambda: write(path))
for place in ("/tmp", "/var/tmp", "/run", "/dev/shm", "/cache", "/run/sparkd/endpoint"):
    attempt(f"write {place}/x", lambda: (write(f"{place}/x"), os.unlink(f"{place}/x")))
attempt("key", lambda: open("/etc/sparkd/api-key"))
attempt("bus", lambda: connect("/run/user/%d/bus" % os.getuid()))
attempt("other model", lambda: connect("/run/sparkd/models/fake-util/api.sock"))
attempt("gateway", lambda: connect(("127.0.0.1", 8009)))
results["oom"] = int(open("/proc/1/oom_score_adj").read())
results["processes"] = processes()
results["interfaces"] = [name for _, name in socket.if_nameindex()]
results["uid_map"] = open("/proc/self/uid_map").read().split()
results["endpoint"] = os.listdir("/run/sparkd/endpoint")
"""

# Of a program of sparkd on the host itself, whichever unit it is in.
FROM_UNIT = r"""
attempt("shadow", lambda: open("/etc/shadow"))
attempt("signal init", lambda: os.kill(1, 0))
attempt("routes", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("code", lambda: __import__("mmap").mmap(-1, 4096, prot=7))
"""

FROM_GATEWAY = r"""
for place in ("", "/usr", "/etc", "/home", "/root", "/boot", "/etc/sparkd", "/run",
              "/var/lib/sparkd/models", "/var/lib/sparkd/.config"):
    attempt(f"write {place}/x", lambda: write(f"{place}/x"))
for path in ("/run/sparkd/x", "/var/lib/sparkd/stats/x", "/tmp/x"):
    attempt("write " + path, lambda: (write(path), os.unlink(path)))
"""

# Last, as whoever succeeds has every capability in it.
END = r"""
attempt("new namespaces", lambda: call(libc.unshare, 0x10020000))
attempt("mount in it", lambda: call(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None))
print(json.dumps(results))
"""


def script(outside: int, *parts: str) -> str:
    """What everybody tries, then the parts."""
    begin = f"LAN, OUTSIDE = {LAN!r}, {outside}\n{TRY}\n{FILTERED}\ntrying(OUTSIDE)\n"
    return "\n".join((begin, *parts, END))


@contextmanager
def models_running(host: Host, *others: str) -> Iterator[None]:
    """The model walls runs, which has weights, and others do."""
    host.stop_models()
    host.configure(SETTINGS)
    host.sh(f"mkdir -p {WEIGHTS}; echo '{{}}' >{WEIGHTS}/config.json")
    try:
        with host.file("/etc/sparkd/models.d/walls.yaml", CATALOG):
            host.run("systemctl", "stop", "sparkd.service")
            for model in (*others, "walls"):
                answer_of(host.chat(model))
            yield
            host.stop_models()
    finally:
        host.sh(f"rm -r {WEIGHTS}")


def in_container(host: Host, model: str) -> dict[str, Any]:
    """What came of it beside the engine of a model that runs."""
    said = host.run(
        *("podman", "exec", "--interactive", f"sparkd-model-{model}", "python3", "-"),
        user="sparkd",
        input=script(outside_pid(host), FROM_CONTAINER),
    )
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def in_gateway(host: Host) -> dict[str, Any]:
    """What came of it in a unit that is sparkd.service but for what it runs."""
    keep = "grep -vE '^(Type|NotifyAccess|Exec|Restart|Watchdog|RuntimeDirectory|Requires|After)'"
    unit = host.sh(f"{keep} /usr/lib/systemd/system/sparkd.service")
    unit += "\nType=oneshot\nReadWritePaths=/run/sparkd\nExecStart=/usr/bin/python3 /run/probe.py\n"
    unit += f"StandardOutput=truncate:{PROBE_OUTPUT}\n"
    host.run("tee", "/run/probe.py", input=script(outside_pid(host), FROM_GATEWAY, FROM_UNIT))
    host.run("tee", PROBE_UNIT, input=unit)
    try:
        host.sh("systemctl daemon-reload; systemctl start sparkd-probe.service")
        found: dict[str, Any] = json.loads(host.sh(f"cat {PROBE_OUTPUT}"))
        return found
    finally:
        host.sh(f"rm -f {PROBE_UNIT} /run/probe.py {PROBE_OUTPUT}; systemctl daemon-reload")


def in_idle_pass(host: Host) -> dict[str, Any]:
    """What came of it in a unit that is an idle pass but for what it runs."""
    keep = "grep -vE '^(Type|Exec|Restart|Condition)' /usr/lib/systemd/user/sparkd-idle@.service"
    unit = f"{host.sh(keep)}\nType=oneshot\nExecStart=/usr/bin/python3 /run/probe.py\n"
    unit += "StandardOutput=truncate:%t/probe.json\n"
    host.run("tee", "/run/probe.py", input=script(outside_pid(host), FROM_UNIT))
    host.sh("mkdir -p /run/systemd/user")
    host.run("tee", USER_PROBE_UNIT, input=unit)
    try:
        run = "systemctl --user daemon-reload; systemctl --user start sparkd-probe.service"
        read = "cat $XDG_RUNTIME_DIR/probe.json; rm $XDG_RUNTIME_DIR/probe.json"
        found: dict[str, Any] = json.loads(host.sh(f"{run}; {read}", user="sparkd"))
        return found
    finally:
        host.sh(f"rm {USER_PROBE_UNIT} /run/probe.py")
        host.sh("systemctl --user daemon-reload", user="sparkd")


def outside_pid(host: Host) -> int:
    """A process of the user sparkd that is in no container: its own service manager."""
    return int(host.sh("systemctl show -p MainPID --value user@$(id -u sparkd).service"))
