# SPDX-License-Identifier: Apache-2.0
"""Checks and measures sparkd on a machine with an NVIDIA GPU.

    python3 -m tests.gpu.run prepare        what `carry` brought: the engine, the weights
    python3 -m tests.gpu.run up [--engine machine|IMAGE.tar]
    python3 -m tests.gpu.run devices job sharing limits
    python3 -m tests.gpu.run times gateway sleep sleepers
    python3 -m tests.gpu.run down

Owns the order and the files of results, nothing else: each name is a module beside this one.
docs/gpu.md has what was found, and how to get here on a machine without a network.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.system.hosts import HOST, Host

from . import readings, stage

CHECKS = ("devices", "job", "sharing", "limits")
MEASURES = ("times", "gateway", "sleep", "sleepers")
RESULTS = Path(__file__).resolve().parents[2] / "build/gpu"


def main() -> int:
    parser = argparse.ArgumentParser(prog="run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="+", choices=["prepare", "up", *CHECKS, *MEASURES, "down"])
    parser.add_argument(
        "--engine", default="machine", help="machine, or an archive for podman load"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.what:
        began_s = time.monotonic()
        if name == "prepare":
            stage.prepare_engine()
            stage.make_weights()
        elif name == "up":
            host = stage.up(options.engine)
            _write(options.results / "machine.json", readings.machine(host))
        elif name == "down":
            subprocess.run([sys.executable, str(HOST), "down", "--name", stage.NAME], check=True)
        elif not _check(name, options.results):
            failed.append(name)
        print(f"{name}: {time.monotonic() - began_s:.1f} s", file=sys.stderr, flush=True)
    if failed:
        print(f"not as promised: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _check(name: str, results: Path) -> bool:
    """Run one of the modules; a failure is shown with what the host said, and the rest goes on."""
    host = Host(stage.NAME)
    cursor = host.cursor()
    try:
        found = importlib.import_module(f"tests.gpu.{name}").check(host)
    except Exception:
        traceback.print_exc()
        lines = [str(entry.get("MESSAGE")).strip() for entry in host.journal(since=cursor)]
        (results / f"{name}.failed.log").write_text("\n".join(lines))
        print("\n".join(lines[-30:]), file=sys.stderr)
        return False
    finally:
        host.close()
    _write(results / f"{name}.json", found)
    return True


def _write(path: Path, found: readings.Json) -> None:
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
