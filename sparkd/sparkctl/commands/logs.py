# SPDX-License-Identifier: Apache-2.0
"""`sparkctl logs`: the output of one model from the journal, as plain lines.

The conmon of the model's container writes this output under the container's name, which is the
same for every run. So the journal has it long after container and model are gone. The command
needs neither daemon, Podman nor root, only a user who may read the journal.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from sparkd.adapters.journal.reader import logged, model_log, model_output
from sparkd.core.errors import HostError
from sparkd.sparkctl import catalog, privileges
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit

_JOURNALCTL = "journalctl"
_JOURNALS = ("/var/log/journal", "/run/log/journal")
_FOLLOW_LINES = 10


def run(options: Options) -> Exit:
    config = catalog.load()
    known = catalog.names(config)
    options = replace(options, model=catalog.id_of(config, options.model))
    account = privileges.find_account()
    development = bool(os.environ.get("SPARKD_RUNTIME_DIR"))
    uid = account.pw_uid if account and not development else os.getuid()
    if is_closed():
        raise privileges.needs_root("this user may not read the journal", options.words)
    try:
        if options.model not in known and not _is_in_journal(options.model, uid):
            raise catalog.unknown(options.model, known)
        words = command(options, uid)
        if options.json:
            os.execvp(_JOURNALCTL, words)
        if not _show(words):
            print(f"sparkctl: the journal has no lines of {options.model}", file=sys.stderr)
    except FileNotFoundError:
        raise HostError(f"there is no {_JOURNALCTL} on this host") from None
    return Exit.OK


def _show(words: list[str]) -> bool:
    """Print each entry as a plain line as it arrives; return whether there were any."""
    shown = False
    with subprocess.Popen(words, stdout=subprocess.PIPE) as journalctl:
        assert journalctl.stdout is not None
        try:
            for entry in journalctl.stdout:
                text = logged(entry)
                if text is not None:
                    shown = True
                    print(text, end="", flush=True)
        finally:
            journalctl.terminate()
    return shown


def is_closed() -> bool:
    """Whether system journals exist and we may read none of them."""
    found = [path for place in _JOURNALS for path in Path(place).glob("*/system.journal")]
    return bool(found) and not any(os.access(path, os.R_OK) for path in found)


def command(options: Options, uid: int) -> list[str]:
    """The journalctl command that shows the output of a model of this user."""
    lines = options.lines
    if lines is None and options.follow:
        lines = _FOLLOW_LINES
    words = [_JOURNALCTL, "--quiet", "--no-pager"]
    if lines is not None:
        words.append(f"--lines={lines}")
    if options.follow:
        words.append("--follow")
    if options.json:
        return [*words, "--output=json", *model_output(options.model, uid)]
    return [*words, *model_log(options.model, uid)]


def _is_in_journal(model_id: str, uid: int) -> bool:
    """Whether the journal has output of a model that is not in the catalog."""
    words = [_JOURNALCTL, "--quiet", "--output=cat", "--lines=1", *model_output(model_id, uid)]
    done = subprocess.run(words, capture_output=True, check=False)
    return bool(done.stdout)
