# SPDX-License-Identifier: Apache-2.0
"""The kernel's limits on a model's control group, and its protection of the gateway's memory.

Needs a machine whose cgroup v2 tree has the controllers; elsewhere limits can be set and do
nothing.
Limits other than `memory_max` are an administrator's drop-ins for the scopes, as systemd has them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.hosts import Host

from .carry import ROOT, cache, run_to_end
from .readings import MIB, Json, Streamed, ask, root_of, scope_of, service_of, until

MODEL = "llama-1b"
TOO_SMALL = "llama-1b-in-1gib"
TASKS_MAX = 40
WEIGHTS = {"light": 20, "heavy": 80}
BURN_S = 5.0
FAKE = ROOT / "tests/engines/fake-vllm"
# Two utilities that do nothing but burn the same processor, and answer /health.
_BURNERS = "models:\n" + "".join(
    f"""\
  {name}:
    image: localhost/sparkd-gpu-engine:latest
    weights: none
    lifecycle: utility
    gpu: none
    files:
      /usr: {{path: /srv/engine/usr}}
      /opt: {{path: /srv/engine/opt}}
      /fake: {{path: /srv/fake}}
    engine:
      command: [sh, -c, 'taskset -c 1 sh -c "while :; do :; done" & exec "$@"', sh,
        /usr/bin/python3, /fake/server.py, serve, "{{model}}", --served-model-name, "{{model}}",
        --uds, "{{socket}}"]
    max_model_len: 2048
"""
    for name in WEIGHTS
)


def check(host: Host) -> Json:
    host.stop_models()
    host.run("mkdir", "-p", "/srv/fake")
    for path in FAKE.glob("*.py"):
        host.run("tee", f"/srv/fake/{path.name}", input=path.read_text())
    found: Json = {"memory_max_at_load": _memory_max_at_load(host)}
    host.stop_models()
    found["memory_max_in_use"] = _memory_max_in_use(host)
    host.stop_models()
    found["tasks_max"] = _tasks_max(host)
    host.stop_models()
    found["cpu_weight"] = _cpu_weight(host)
    host.stop_models()
    found["memory_min"] = _memory_min(host)
    host.stop_models()
    return found


def _memory_max_at_load(host: Host) -> Json:
    cursor = host.cursor()
    told = ask(host, TOO_SMALL, max_tokens=4)
    kernel = [
        entry["MESSAGE"]
        for entry in host.journal("_UID=0", since=cursor)
        + host.journal(f"_UID={host.sh('id -u sparkd')}", since=cursor)
        if "oom" in str(entry.get("MESSAGE", "")).lower()
    ]
    assert told["status"] >= 500, told
    assert "memory" in told["error"]["message"], told
    again = ask(host, TOO_SMALL, max_tokens=4)
    return {"told": told, "journal": kernel[:6], "second_try": again}


def _memory_max_in_use(host: Host) -> Json:
    """The limit is lowered below what a busy model has: it dies, the client's stream says so."""
    assert ask(host, MODEL, max_tokens=4)["status"] == 200
    scope = scope_of(host, MODEL)
    had_mib = int((scope / "memory.current").read_text()) // MIB
    stream = Streamed.begin(host, MODEL, max_tokens=3900, ignore_eos=True)
    stream.wait_first()
    host.run(
        *("systemctl", "--user", "set-property", "--runtime", scope.name, "MemoryMax=64M"),
        user="sparkd",
        check=False,
    )
    told = stream.wait()
    until(lambda: not scope.exists(), "the scope is gone")
    assert not told["whole"], told
    answer = ask(host, MODEL, max_tokens=4)
    return {"memory_mib": had_mib, "told": told, "next": answer}


def _tasks_max(host: Host) -> Json:
    with _drop_in(host, f"TasksMax={TASKS_MAX}"):
        host.run("systemctl", "stop", "sparkd.service")
        cursor = host.cursor()
        told = ask(host, MODEL, max_tokens=4)
        said = [str(entry.get("MESSAGE", "")) for entry in host.journal(since=cursor)]
    assert told["status"] >= 500, told
    refusals = [line for line in said if "thread" in line or "temporarily unavailable" in line]
    return {"tasks_max": TASKS_MAX, "told": told, "said": refusals[:3]}


def _cpu_weight(host: Host) -> Json:
    """Two models that burn the same processor get it by their weights."""
    with host.file("/etc/sparkd/models.d/burners.yaml", _BURNERS):
        for name, weight in WEIGHTS.items():
            _write_drop_in(host, f"sparkd-model-{name}.scope.d", f"CPUWeight={weight}")
        host.run("systemctl", "stop", "sparkd.service")
        try:
            for name in WEIGHTS:
                answer = ask(host, name, max_tokens=2)
                assert answer["status"] == 200, answer
            scopes = {name: scope_of(host, name) for name in WEIGHTS}
            weights = {n: (s / "cpu.weight").read_text().strip() for n, s in scopes.items()}
            before = {name: cpu_s(scope) for name, scope in scopes.items()}
            time.sleep(BURN_S)
            used = {name: round(cpu_s(scope) - before[name], 3) for name, scope in scopes.items()}
        finally:
            host.stop_models()
            for name in WEIGHTS:
                host.run("rm", "-r", f"/etc/systemd/user/sparkd-model-{name}.scope.d")
            host.run("systemctl", "--user", "daemon-reload", user="sparkd")
    ratio = used["heavy"] / used["light"]
    assert 3.0 < ratio < 5.0, used
    return {"cpu.weight": weights, "cpu_s": used, "ratio": round(ratio, 2)}


def _memory_min(host: Host) -> Json:
    """All memory below the top is asked for: a protected gateway keeps what it has.

    Needs swap, since hardly anything of the gateway can be reclaimed without.
    """
    found: Json = {}
    with _swap():
        for name in ("as shipped", "its own MemoryMin only", "none"):
            host.run("systemctl", "restart", "sparkd.service")
            service = service_of(host)
            if name != "as shipped":
                (service.parent / "memory.min").write_text("0")
            if name == "none":
                (service / "memory.min").write_text("0")
            _models_s(host)
            before = _memory(service)
            _reclaim(root_of(host) / "sys/fs/cgroup")
            after = _memory(service)
            answered_s = _models_s(host)
            found[name] = {
                "group": str(service).partition("sys/fs/cgroup")[2],
                "memory.min": [
                    (each / "memory.min").read_text().strip() for each in (service, service.parent)
                ],
                "before_mib": before,
                "after_mib": after,
                "next_answer_ms": round(answered_s * 1e3, 1),
                "major_faults": _major_faults(service),
            }
            host.run("systemctl", "stop", "sparkd.slice")
    assert found["as shipped"]["after_mib"]["swap"] == 0, found
    assert found["none"]["after_mib"]["swap"] > 10, found
    return found


def _models_s(host: Host) -> float:
    """How long a list of models takes, on a connection of its own."""
    url = "http://127.0.0.1:8009/v1/models"
    asked = ["curl", "-s", "-o", "/dev/null", "-w", "%{time_total}", "-H"]
    return float(host.run(*asked, f"authorization: Bearer {host.key}", url).stdout)


def _memory(group: Path) -> dict[str, float]:
    names = {"memory": "memory.current", "swap": "memory.swap.current"}
    return {n: round(int((group / f).read_text()) / MIB, 1) for n, f in names.items()}


@contextmanager
def _swap() -> Iterator[None]:
    """Swap for the machine, for a while."""
    path = cache.cache_dir() / "gpu-swap"
    for make in (["fallocate", "-l", "1G"], ["chmod", "600"], ["mkswap"], ["swapon"]):
        run_to_end([*make, path], what=make[0])
    try:
        yield
    finally:
        run_to_end(["swapoff", path], what="swapoff")
        path.unlink()


def _reclaim(group: Path) -> None:
    """Ask the kernel for more than there is to get; it takes what it may and then refuses."""
    for _ in range(5):
        try:
            (group / "memory.reclaim").write_text("8G")
        except OSError:
            continue


def _major_faults(group: Path) -> int:
    text = (group / "memory.stat").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("pgmajfault")))


def cpu_s(group: Path) -> float:
    text = (group / "cpu.stat").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if "usage_usec" in line)) / 1e6


@contextmanager
def _drop_in(host: Host, line: str) -> Iterator[None]:
    """A limit on the scopes of all models, as an administrator sets it."""
    _write_drop_in(host, "sparkd-model-.scope.d", line)
    try:
        yield
    finally:
        host.run("rm", "-r", "/etc/systemd/user/sparkd-model-.scope.d")
        host.run("systemctl", "--user", "daemon-reload", user="sparkd")


def _write_drop_in(host: Host, directory: str, line: str) -> None:
    host.run("mkdir", "-p", f"/etc/systemd/user/{directory}")
    path = f"/etc/systemd/user/{directory}/50-limits.conf"
    host.run("tee", path, input=f"[Scope]\n{line}\n")
    host.run("systemctl", "--user", "daemon-reload", user="sparkd")
