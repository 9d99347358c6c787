#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes one result of `make bench` into docs/performance.md: render.py [RESULT.json]

Without an argument it takes the newest result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import report  # noqa: E402 (the path is set above)

RESULTS = ROOT / "build/bench"
PAGE = ROOT / "docs/performance.md"


def main(arguments: list[str]) -> int:
    source = RESULTS / arguments[0] if arguments else max(RESULTS.glob("*.json"), default=None)
    if source is None:
        print("render: there is no result in build/bench\nhint: make bench", file=sys.stderr)
        return 1
    page = PAGE.read_text()
    before, _, rest = page.partition(report.BEGIN)
    _, _, after = rest.partition(report.END)
    PAGE.write_text(before + report.markdown(json.loads(source.read_text())) + after)
    print(f"{PAGE.relative_to(ROOT)}: {source.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
