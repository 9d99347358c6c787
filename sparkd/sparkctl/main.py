# SPDX-License-Identifier: Apache-2.0
"""Entry point of `sparkctl`: read the command line, run one command, report its error.

Everything here works without the daemon. Only the modules that the command needs are imported.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from sparkd.core.errors import SparkdError
from sparkd.sparkctl.exit_codes import Exit, exit_of
from sparkd.sparkctl.output import print_error

_MODULES = {"unpin": "pin"}
"""The modules whose names differ from those of their commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, `sys.argv` by default, and return the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = _run(words)
        # Flush here, so that a closed pipe raises here and not while Python shuts down.
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
    # argparse and the commands are imported here, so that the caller handles Ctrl-C meanwhile.
    from sparkd.sparkctl.arguments import parse

    try:
        options = parse(words)
        name = options.command.split()[0]
        command = import_module(f"sparkd.sparkctl.commands.{_MODULES.get(name, name)}")
        return int(command.run(options))
    except SystemExit as done:
        # argparse raises this after --help and --version.
        return int(done.code or 0)
    except SparkdError as error:
        sys.stdout.flush()
        print_error(error)
        return exit_of(error)
