# SPDX-License-Identifier: Apache-2.0
"""What the person at the terminal sees: progress lines on stderr and one-line errors with a hint.

Also the one way to run an outside program to its end. It must not know what is being built.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_STARTED_MONO_S = time.monotonic()


class HostError(Exception):
    """Ends the command: `message` says what is wrong, `hint` what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def say(text: str) -> None:
    """Print one progress line with the seconds since the command started."""
    elapsed_s = time.monotonic() - _STARTED_MONO_S
    print(f"[{elapsed_s:6.1f} s] {text}", file=sys.stderr, flush=True)


def run_to_end(
    argv: Sequence[str | Path],
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    hint: str | None = None,
) -> str:
    """Run a program, show its output only if it fails, return its standard output."""
    done = subprocess.run(
        [str(part) for part in argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=env,
        cwd=cwd,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout.decode(errors="replace")[-4000:])
        sys.stderr.write(done.stderr.decode(errors="replace")[-4000:])
        raise HostError(f"{what} failed with exit status {done.returncode}", hint)
    return done.stdout.decode(errors="replace")
