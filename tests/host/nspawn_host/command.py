# SPDX-License-Identifier: Apache-2.0
"""The verbs of `host`: their arguments, and in which order and under which lock each acts.

How a step is done is in the modules beside this one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from . import cache, furnish, parts, roottree
from .console import HostError, say
from .guest import DOWN_GRACE_S, REBOOT_GRACE_S, Guest, Record
from .parts import Engine, Wanted

_DEFAULT_NAME = "sparkd-test"


def main(arguments: list[str]) -> int:
    """Run one verb; return the exit status."""
    before, _, inner = _split(arguments)
    options = _parser().parse_args(before)
    try:
        if os.geteuid() != 0:
            raise HostError("hosts need root: namespaces, mounts and device nodes", "sudo -E ...")
        if options.verb is _run:
            _run(options, inner)
        else:
            options.verb(options)
    except HostError as error:
        print(f"host: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Split at the first `--`: what stands behind it belongs to the command inside, untouched."""
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]


def _up(options: argparse.Namespace) -> None:
    guest = Guest(options.name)
    record = guest.read()
    suite = roottree.Suite(options.suite or (record.suite if record else roottree.Suite.TRIXIE))
    roottree.install_tools(build=not roottree.is_built(suite))
    # Before the lock: building an engine image boots a host too.
    wanted = Wanted() if options.no_deb else parts.build(suite, Engine(options.engine))
    with cache.lock(f"host-{guest.name}"):
        record = guest.read()
        _refuse_other_kind(guest, record, suite, packaged=not options.no_deb)
        if record is None or not record.furnished:
            _make(guest, Record(suite=suite, packaged=not options.no_deb, binds=options.bind))
        elif not guest.responds():
            guest.stop(grace_s=0)
            guest.boot()
        else:
            say(f"host '{guest.name}' runs already")
        _bring_up_to_date(guest, wanted)
    say(f"host '{guest.name}' is ready")


def _refuse_other_kind(
    guest: Guest, record: Record | None, suite: roottree.Suite, *, packaged: bool
) -> None:
    """Raise if the host exists and is not of the kind that is asked for."""
    if (
        record is None
        or not record.furnished
        or (record.suite, record.packaged) == (suite, packaged)
    ):
        return
    kind = "has the package" if record.packaged else "is a plain one"
    raise HostError(
        f"host '{guest.name}' is {record.suite} and {kind}", f"host down --name {guest.name}"
    )


def _make(guest: Guest, record: Record) -> None:
    """Make the host anew, up to where later changes can be applied one by one."""
    _delete(guest)
    guest.dir.mkdir(parents=True)
    roottree.unpack(roottree.Suite(record.suite), guest.root)
    furnish.prepare_tree(guest.root, guest.name)
    guest.write(record)
    guest.boot()
    if not record.packaged:
        furnish.make_user(guest)
    guest.update(furnished=True)


def _bring_up_to_date(guest: Guest, wanted: Wanted) -> None:
    """Install and load what this host has not got yet; each step done is recorded at once."""
    have = set(guest.record().have)
    for part in wanted.parts:
        if part.key in have:
            continue
        part.place(guest)
        have = {key for key in have if key.split(":")[0] != part.key.split(":")[0]} | {part.key}
        guest.update(have=sorted(have))


def _run(options: argparse.Namespace, inner: list[str]) -> None:
    guest = Guest(options.name)
    if not inner:
        raise HostError("no command is given", "host run -- CMD...")
    argv = guest.enter_argv(options.user, inner)
    env = guest.environment(options.user)
    os.execve(argv[0], argv, env)


def _down(options: argparse.Namespace) -> None:
    hosts = cache.cache_dir() / "hosts"
    names = [path.name for path in sorted(hosts.glob("*"))] if options.all else [options.name]
    for name in names:
        guest = Guest(name)
        with cache.lock(f"host-{name}"):
            _delete(guest)
        say(f"host '{name}' is gone")


def _delete(guest: Guest) -> None:
    guest.stop(grace_s=DOWN_GRACE_S)
    cache.remove_tree(guest.dir)


def _reboot(options: argparse.Namespace) -> None:
    guest = Guest(options.name)
    with cache.lock(f"host-{guest.name}"):
        guest.record()
        say(f"{'cut the power of' if options.hard else 'shut down'} host '{guest.name}'")
        guest.stop(grace_s=0 if options.hard else REBOOT_GRACE_S)
        guest.boot()


def _status(_options: argparse.Namespace) -> None:
    for path in sorted((cache.cache_dir() / "hosts").glob("*")):
        guest = Guest(path.name)
        record = guest.read()
        leader = guest.leader_pid()
        state = f"up (pid {leader})" if leader else "down"
        suite = record.suite if record else "half-made"
        have = " ".join(record.have) if record else ""
        print(f"{guest.name:20} {suite:10} {state:16} {have}".rstrip())


def _log(options: argparse.Namespace) -> None:
    guest = Guest(options.name)
    guest.record()
    print(guest.console_log.read_text(errors="replace"), end="", flush=True)
    journal = guest.root / "var/log/journal"
    subprocess.run(["journalctl", "--no-pager", f"--directory={journal}"], check=False)


def _cp(options: argparse.Namespace) -> None:
    guest = Guest(options.name)
    source: Path = options.source
    if not source.exists():
        raise HostError(f"there is no file '{source}'")
    if source.is_file():
        place = 'to=$0; [ ! -d "$to" ] || to=$to/$1; cat >"$to"; chmod "$2" "$to"'
        mode = f"{source.stat().st_mode & 0o777:o}"
        with source.open("rb") as content:
            guest.run("sh", "-ec", place, options.target, source.name, mode, stdin=content)
        return
    pack = ["tar", "-C", str(source), "-c", "."]
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as tar:
        unpack = 'mkdir -p "$0"; tar -C "$0" --no-same-owner -x'
        guest.run("sh", "-ec", unpack, options.target, stdin=tar.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="host", description="Boot, use and end test hosts: Debian under systemd-nspawn."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, effect: Callable[..., None], text: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=text, description=text)
        command.set_defaults(verb=effect)
        command.add_argument("--name", default=_DEFAULT_NAME, help="default: %(default)s")
        return command

    up = verb("up", _up, "build what is missing, boot the host, install sparkd in it")
    up.add_argument("--suite", choices=[*roottree.Suite], help="default: trixie")
    up.add_argument("--engine", choices=[*Engine], default=Engine.FAKE, help="default: %(default)s")
    up.add_argument("--no-deb", action="store_true", help="a plain host with a sparkd user only")
    up.add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="SOURCE[:TARGET[:ro]]",
        help="show the host a file, directory or device node of this machine (may be repeated)",
    )
    run = verb("run", _run, "run a command inside: host run [--name N] [--user U] -- CMD...")
    run.add_argument("--user", default="root", help="default: %(default)s")
    down = verb("down", _down, "end the host and delete it")
    down.add_argument("--all", action="store_true", help="every host of the cache directory")
    reboot = verb("reboot", _reboot, "shut the host down and boot it again")
    reboot.add_argument("--hard", action="store_true", help="kill it at once, as a power cut would")
    verb("status", _status, "list the hosts")
    verb("log", _log, "print the host's console and journal")
    copy = verb("cp", _cp, "copy a file, or a directory's content, into the host")
    copy.add_argument("source", type=Path)
    copy.add_argument("target")
    return parser
