# SPDX-License-Identifier: Apache-2.0
"""sparkd's whole job on a real GPU: a model comes when it is asked, answers, stays, and leaves.

With a small model whose answers can be judged. Each step says what was seen; one that is not as
promised ends the run.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.system.hosts import Host

from .readings import (
    Json,
    Streamed,
    ask,
    daemon_pid,
    gpu_memory_watched,
    gpu_used_mib,
    running,
    scope_of,
    until,
)

MODEL = "smollm2-135m"
IDLE_S = 10.0
SURE = {"temperature": 0, "max_tokens": 16}


def check(host: Host) -> Json:
    host.stop_models()
    found: Json = {"gpu_base_mib": gpu_used_mib()}
    host.sh(f"rm -rf /var/lib/sparkd/cache/{MODEL}")
    host.run("systemctl", "stop", "sparkd.service")
    found["before"] = host.sh("systemctl list-units --no-legend --all 'sparkd*'")
    found["cold"] = _right(ask(host, MODEL, **SURE))
    found["resident"] = _resident(host)
    found["warm"] = [_right(ask(host, MODEL, **SURE)) for _ in range(5)]
    stream = Streamed.begin(host, MODEL, max_tokens=64, temperature=0)
    found["stream"] = stream.wait()
    assert found["stream"]["whole"], found["stream"]
    found["idle_stop"] = _idle_stop(host, found["gpu_base_mib"])
    found["caches_kept"] = _right(ask(host, MODEL, **SURE))
    found["adoption"] = _adoption(host)
    found["killed_while_streaming"] = _killed_while_streaming(host)
    found["payload_killed"] = _payload_killed(host)
    host.stop_models()
    return found


def _right(answer: Json) -> Json:
    assert answer["status"] == 200, answer
    assert "Paris" in answer["text"], answer
    return answer


def _resident(host: Host) -> Json:
    """What can be seen of the running model with the system's own tools."""
    pid = running(host)[MODEL]["pid"]
    return {
        "gpu_used_mib": gpu_used_mib(),
        "ps": host.sh("sparkctl ps"),
        "processes": host.sh(
            "systemctl --user --no-pager --lines=0 -l status 'sparkd-model-*.scope' | cut -c1-150",
            user="sparkd",
        ),
        "lock": host.sh("sparkctl status | tail -n 12"),
        "payload": host.sh(f"tr '\\0' ' ' </proc/{pid}/cmdline"),
        "status_memory": host.request("GET", "/status").json()["memory"],
    }


def _idle_stop(host: Host, base_mib: int) -> Json:
    activity = host.sh("stat -c %.Y /run/sparkd/locks/*smollm2*.activity")
    scope = scope_of(host, MODEL)
    assert scope.exists()
    until(lambda: not scope.exists(), "the idle model is gone", IDLE_S + 30)
    late_s = time.time() - float(activity) - IDLE_S
    back_s = until(lambda: gpu_used_mib() <= base_mib, "the GPU's memory is back")
    return {"idle_timeout_s": IDLE_S, "late_s": round(late_s, 2), "memory_back_after_s": back_s}


def _adoption(host: Host) -> Json:
    before, daemon = running(host)[MODEL]["pid"], daemon_pid(host)
    host.run("systemctl", "kill", "--signal=KILL", "sparkd.service")
    answer = _right(ask(host, MODEL, **SURE))
    after = running(host)[MODEL]["pid"]
    assert after == before, (before, after)
    assert daemon_pid(host) != daemon
    return {"payload": [before, after], "daemon": [daemon, daemon_pid(host)], **answer}


def _killed_while_streaming(host: Host) -> Json:
    """The connection breaks, the model does not; the next daemon has it at once."""
    before = running(host)[MODEL]["pid"]
    stream = Streamed.begin(host, MODEL, max_tokens=1800, ignore_eos=True, temperature=0)
    stream.wait_first()
    host.run("systemctl", "kill", "--signal=KILL", "sparkd.service")
    broken = stream.wait()
    assert not broken["whole"], broken
    answer = _right(ask(host, MODEL, **SURE))
    assert running(host)[MODEL]["pid"] == before
    return {"stream_events": broken["events"], "broke": broken["broke"], "next": answer}


def _payload_killed(host: Host) -> Json:
    """kill -9 of vLLM in the middle of an answer: the client is told, the GPU is free."""
    stream = Streamed.begin(host, MODEL, max_tokens=1800, ignore_eos=True, temperature=0)
    stream.wait_first()
    with gpu_memory_watched() as samples:
        host.run("kill", "-9", str(running(host)[MODEL]["pid"]))
        told = stream.wait()
        scope: Path = scope_of(host, MODEL)
        until(lambda: not scope.exists(), "the scope of a killed payload is gone")
        until(lambda: gpu_used_mib() < 1000, "the GPU's memory is back")
    assert not told["whole"] or "error" in told["end"], told
    return {"told": told, "gpu_mib": sorted({used for _, used in samples})}
