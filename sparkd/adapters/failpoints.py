# SPDX-License-Identifier: Apache-2.0
"""Points at which a test kills this process, to prove that a crash there loses nothing.

Without SPARKD_FAULT in the environment, which only tests set, `reach` does nothing.
"""

from __future__ import annotations

import os
import signal

_POINT = os.environ.get("SPARKD_FAULT", "")


def failpoint(point: str) -> None:
    """Die here, at once and without any clean-up, if this is the point."""
    if point == _POINT:
        os.kill(os.getpid(), signal.SIGKILL)
