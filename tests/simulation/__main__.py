# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.simulation [NAME...]`: play the named traces, or those whose names hold NAME."""

from __future__ import annotations

import sys
import time

from tests.simulation import report, traces


def main(words: list[str]) -> int:
    chosen = [w for w in traces.named() if not words or any(word in w.name for word in words)]
    if not chosen:
        print("no such trace; there are: " + "; ".join(w.name for w in traces.named()))
        return 2
    began_s = time.monotonic()
    for line in report.of_traces(chosen):
        print(line)
    if not words:
        print("", *report.of_residency(), sep="\n")
    requests = sum(workload.requests for workload in chosen)
    print(f"\n{requests} requests in {time.monotonic() - began_s:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
