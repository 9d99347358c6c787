# SPDX-License-Identifier: Apache-2.0
"""Where the log of a command goes: into the journal beside the daemon's, never to the terminal.

What the user must know is printed by the command itself; that sparkctl started or stopped a model
is for whoever reads the journal later.
"""

from __future__ import annotations

import logging
import os

from sparkd.adapters.journal import JournalHandler, Redact

_SOCKET = "/run/systemd/journal/socket"


def configure() -> None:
    """Send all logging of this process to journald; drop it where there is none."""
    handler: logging.Handler = logging.NullHandler()
    if os.path.exists(_SOCKET):
        handler = JournalHandler(_SOCKET)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(Redact())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "urllib3", "podman", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
