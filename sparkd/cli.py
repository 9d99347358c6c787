# SPDX-License-Identifier: Apache-2.0
"""`sparkctl`: reads the command line, runs one command of `sparkd.commands`, reports its error.

Everything here works without the daemon. Nothing is imported that the command does not need.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from sparkd.commands.exits import Exit, exit_of
from sparkd.commands.output import print_error
from sparkd.core.errors import SparkdError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, `sys.argv` by default; the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = _run(words)
        # Here, so that a reader that has gone is met here and not while Python shuts down.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception:
        traceback.print_exc()
        return Exit.INTERNAL


def _run(words: Sequence[str]) -> int:
    # argparse and the commands are imported here, within reach of the handling of Ctrl-C above.
    from sparkd.commands.arguments import parse

    try:
        options = parse(words)
        module, function = _COMMANDS[options.command]
        command = getattr(__import__(module, fromlist=[function]), function)
        return int(command(options))
    except SystemExit as done:
        # argparse ends so after --help and --version.
        return int(done.code or 0)
    except SparkdError as error:
        sys.stdout.flush()
        print_error(error)
        return exit_of(error)


_COMMANDS = {
    "models": ("sparkd.commands.models", "run"),
    "show": ("sparkd.commands.show", "run"),
    "ps": ("sparkd.commands.ps", "run"),
    "start": ("sparkd.commands.start", "run"),
    "stop": ("sparkd.commands.stop", "run"),
    "pin": ("sparkd.commands.pin", "pin"),
    "unpin": ("sparkd.commands.pin", "unpin"),
    "status": ("sparkd.commands.status", "run"),
    "preload": ("sparkd.commands.preload", "run"),
    "run": ("sparkd.commands.run", "run"),
    "smoke": ("sparkd.commands.smoke", "run"),
    "soak": ("sparkd.commands.soak", "run"),
    "pull": ("sparkd.commands.pull", "run"),
    "images": ("sparkd.commands.images", "run"),
    "build": ("sparkd.commands.build", "run"),
    "logs": ("sparkd.commands.logs", "run"),
    "events": ("sparkd.commands.events", "run"),
    "stats": ("sparkd.commands.stats", "run"),
    "top": ("sparkd.commands.top", "run"),
    "check": ("sparkd.commands.check", "run"),
    "doctor": ("sparkd.commands.doctor", "run"),
    "integrate": ("sparkd.commands.integrate", "run"),
    "key show": ("sparkd.commands.key", "show"),
    "key rotate": ("sparkd.commands.key", "rotate"),
    "key add": ("sparkd.commands.keyring", "add"),
    "key list": ("sparkd.commands.keyring", "list_keys"),
    "key revoke": ("sparkd.commands.keyring", "revoke"),
}
