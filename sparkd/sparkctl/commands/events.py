# SPDX-License-Identifier: Apache-2.0
"""`sparkctl events`: past and new events from the journal; needs no daemon.

The events are those of `GET /events`, with the same keys in --json, one object per line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

from sparkd.adapters.journal.reader import events
from sparkd.core.errors import HostError
from sparkd.core.telemetry.events import CHATTY, Event, EventKind, as_json, parse
from sparkd.sparkctl import output, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.commands.logs import is_closed
from sparkd.sparkctl.exit_codes import Exit

_FOLLOW_LINES = 10


def run(options: Options) -> Exit:
    account = privileges.find_account()
    development = bool(os.environ.get("SPARKD_RUNTIME_DIR"))
    uid = account.pw_uid if account and not development else os.getuid()
    if is_closed():
        raise privileges.needs_root("this user may not read the journal", options.words)
    try:
        shown = False
        for event in _read(command(options, uid)):
            shown = True
            line = json.dumps(as_json(event)) if options.json else text(event)
            print(line, flush=options.follow)
    except FileNotFoundError:
        raise HostError("there is no journalctl on this host") from None
    if not shown:
        print("sparkctl: the journal has no such events", file=sys.stderr)
    return Exit.OK


def command(options: Options, uid: int) -> list[str]:
    """The journalctl that prints the events."""
    wanted = [kind.message_id for kind in EventKind if options.all or kind not in CHATTY]
    words = ["journalctl", "--quiet", "--no-pager", *events(wanted, uid)]
    if options.model:
        words.append(f"SPARKD_MODEL={options.model}")
    lines = options.lines
    if lines is None and options.follow:
        lines = _FOLLOW_LINES
    if lines is not None:
        words.append(f"--lines={lines}")
    return [*words, "--follow"] if options.follow else words


def text(event: Event) -> str:
    """One line for people, in local time."""
    at = datetime.fromtimestamp(event.at_us / 1e6).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S}  {event.name:<15}  {output.printable(event.text)}"


def _read(words: list[str]) -> Iterator[Event]:
    with subprocess.Popen(words, stdout=subprocess.PIPE) as journalctl:
        assert journalctl.stdout is not None
        try:
            for line in journalctl.stdout:
                event = parse(line)
                if event is not None:
                    yield event
        finally:
            journalctl.terminate()
