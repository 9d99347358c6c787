# SPDX-License-Identifier: Apache-2.0
"""`sparkctl doctor`: problems of this host, with their effects and fixes."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import asdict, replace

from sparkd.adapters.files.config_files import config_paths
from sparkd.adapters.files.key_files import read_keys, read_secrets
from sparkd.adapters.proc import listeners
from sparkd.core.diagnosis.diagnose import diagnose
from sparkd.core.diagnosis.facts import Facts, Port
from sparkd.core.diagnosis.findings import Finding, Level
from sparkd.core.errors import Misconfigured, SparkdError
from sparkd.core.model import Config
from sparkd.core.quantities import count_of
from sparkd.sparkctl import catalog, output, privileges, system_units
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit


def run(options: Options) -> Exit:
    stranger: SparkdError | None = None
    # Only root sees which program listens on the port, and the next step drops root.
    port = _port()
    try:
        privileges.act_as_sparkd(options.words)
    except SparkdError as error:
        stranger = error
    config = catalog.load()
    facts = _everybodys(config) if stranger else _everything(config)
    facts = replace(facts, port=replace(port, key_error=_key_error()))
    found = diagnose(facts)
    if options.json:
        output.print_json(as_json(found, facts.unseen))
    else:
        print(text(found, facts.unseen))
    if stranger is not None:
        output.print_error(stranger)
    return exit_of(found, strict=options.strict)


def exit_of(found: Sequence[Finding], *, strict: bool = False) -> Exit:
    """`Exit.NO` if there are problems; with `strict`, warnings count too."""
    bad = [one for one in found if strict or one.level is Level.PROBLEM]
    return Exit.NO if bad else Exit.OK


def as_json(found: Sequence[Finding], unseen: Sequence[tuple[str, str]]) -> dict[str, object]:
    return {
        "ok": not found,
        "findings": [asdict(one) for one in found],
        "unseen": [{"area": area, "reason": reason} for area, reason in unseen],
    }


def text(found: Sequence[Finding], unseen: Sequence[tuple[str, str]]) -> str:
    """Each finding in three lines, then their number, and the areas without a look."""
    blocks = [
        f"{one.level}: {output.printable(one.what)}\n"
        f"  why: {one.why}\n"
        f"  fix: {output.printable(one.fix)}\n"
        for one in found
    ]
    counts = [count_of(sum(one.level is level for one in found), level.value) for level in Level]
    lines = [", ".join(counts) if found else "nothing is wrong"]
    lines += [f"not looked at: {area}, {output.printable(reason)}" for area, reason in unseen]
    return "\n".join([*blocks, *lines])


def _everything(config: Config) -> Facts:
    import asyncio

    from sparkd import runtime
    from sparkd.observe import host_survey

    return asyncio.run(
        host_survey.examine(
            config, runtime.build(), account=_account(), settings=config_paths(os.environ).settings
        )
    )


def _everybodys(config: Config) -> Facts:
    from sparkd.observe import host_survey

    settings = config_paths(os.environ).settings
    return host_survey.examine_host(config, catalog.layout(), account=_account(), settings=settings)


def _account() -> str:
    """The user sparkd, or the user of a private installation."""
    if os.environ.get("SPARKD_RUNTIME_DIR"):
        return pwd.getpwuid(os.geteuid()).pw_name
    return privileges.ACCOUNT


def _port() -> Port:
    socket, _ = system_units.read()
    free = socket.state in ("active", system_units.UNKNOWN)
    return Port(
        socket_state=socket.state,
        enabled=socket.enabled,
        listen=socket.listen,
        holders=() if free else listeners.at(socket.listen),
    )


def _key_error() -> tuple[str, str] | None:
    """The key problem that locks out every client; None too if this user may not read the keys."""
    paths = config_paths(os.environ)
    there = [path for path in (paths.api_key, paths.keys) if path.exists()]
    if os.geteuid() != _owner_uid() and not all(os.access(path, os.R_OK) for path in there):
        return None
    try:
        if not read_keys(paths.keys) or paths.api_key.exists():
            read_secrets(paths.api_key)
    except Misconfigured as error:
        return error.message, error.hint
    return None


def _owner_uid() -> int:
    account = privileges.find_account()
    return account.pw_uid if account else os.geteuid()
