# SPDX-License-Identifier: Apache-2.0
"""The command line of `sparkctl`: its commands and their arguments. Runs none."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from sparkd._version import __version__
from sparkd.core.access.api_keys import Scope
from sparkd.sparkctl.exit_codes import Exit, UsageError

_DESCRIPTION = "Look at and control the models of sparkd. Works whether or not the gateway runs."
_EPILOG = """\
examples:
  sudo sparkctl models        list the models and their states
  sudo sparkctl start NAME    start a model and wait until it is ready
  sudo sparkctl logs -f NAME  follow its output
  sudo sparkctl key show      the key that clients need
  sudo sparkctl key add NAME  a further key, for one client or person
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One parsed command line. Arguments that the command does not take keep their defaults."""

    command: str
    """`models`, or `key show` for a command of a group."""
    words: tuple[str, ...]
    """The whole command line as the user gave it, for hints."""
    json: bool = False
    all: bool = False
    model: str = ""
    now: bool = False
    follow: bool = False
    lines: int | None = None
    name: str = ""
    scopes: tuple[Scope, ...] = ()
    concurrent: int | None = None
    per_minute: int | None = None
    expires: str | None = None
    client: str = ""
    models: tuple[str, ...] = ()
    url: str = ""
    with_key: bool = False
    strict: bool = False
    image: str = ""
    options: tuple[str, ...] = ()
    prompt: tuple[str, ...] = ()
    utility: str = ""
    default: str = ""
    vision: str = ""
    coder: str = ""
    concurrency: int | None = None
    answer: int | None = None
    tiers: tuple[int, ...] = ()


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors as all of sparkctl does: one line and a hint."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


def parse(words: Sequence[str]) -> Options:
    """Parse a command line. Raises UsageError; --help and --version print and exit."""
    parser = make_parser()
    _check_names(words)
    options = vars(parser.parse_args(words))
    command = " ".join(options.pop(name) for name in ("command", "group") if name in options)
    options |= {name: tuple(options[name] or ()) for name in _SEVERAL if name in options}
    return Options(command=command, words=tuple(words), **options)


def _check_names(words: Sequence[str]) -> None:
    """Raise UsageError for a missing or unknown command; argparse's text would list them all."""
    names = [word for word in words if not word.startswith("-")]
    if "--help" in words or "-h" in words or "--version" in words:
        return
    if not names:
        raise UsageError("no command is given", hint="sparkctl --help")
    if names[0] not in _COMMANDS:
        raise _unknown(names[0], tuple(_COMMANDS), "sparkctl")
    if names[0] == "key" and not names[1:]:
        raise UsageError(f"key wants one of {', '.join(_KEY_COMMANDS)}", hint="sparkctl key --help")
    if names[0] == "key" and names[1] not in _KEY_COMMANDS:
        raise _unknown(names[1], tuple(_KEY_COMMANDS), "sparkctl key")


def _unknown(name: str, known: Sequence[str], prefix: str) -> UsageError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {prefix} {close[0]}?" if close else f"{prefix} --help"
    return UsageError(f"there is no command {prefix} {name}", hint=hint)


_COMMANDS = {
    "models": "list the models of the catalog and their state",
    "show": "show how sparkd runs a model: container, memory, rules",
    "ps": "list the running models",
    "start": "start a model and wait until it is ready",
    "stop": "stop a model, after the requests it serves",
    "pin": "keep a model when it is idle, until the next boot",
    "unpin": "let an idle model go again",
    "status": "show the socket, the service, the GPU and running models",
    "preload": "start the models that preload in sparkd.yaml names",
    "run": "ask a model, and print its answer",
    "smoke": "ask one model of each kind, and report the results",
    "soak": "find how long a context a model takes, by trying",
    "pull": "fetch the weights and files of a model",
    "images": "list the images that models need, and which are there",
    "build": "make an image from its recipe",
    "logs": "show the output of a model, also after it ended",
    "events": "show past and new events of models",
    "stats": "show how long models ran and how much memory they took",
    "top": "show the resource use of running models, live",
    "check": "check the configuration as the gateway reads it",
    "doctor": "check this host, and say how to fix each problem",
    "integrate": "print the configuration of a client, ready to use",
    "key": "show, add and revoke API keys",
}
_KEY_COMMANDS = {
    "show": "print the key that the package made, alone on the last line",
    "rotate": "make a new key in place of that one, and print it",
    "add": "make a further key with rights of its own, and print it, this once",
    "list": "list the keys and their rights, without the secrets",
    "revoke": "end a key that was added",
}
_SEVERAL = ("scopes", "models", "prompt", "options")


CLIENTS = ("opencode", "cline", "openwebui", "continue", "env")
"""The clients that `integrate` supports; `core.clients.integrations` writes for each."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the shell completions are generated from it too."""
    parser = _Parser(
        prog="sparkctl",
        description=_DESCRIPTION,
        epilog=_EPILOG + _exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sparkctl {__version__}")
    _add_json(parser)
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for name, text in _COMMANDS.items():
        parsers[name] = verbs.add_parser(
            name, help=text, description=_sentence(text), allow_abbrev=False
        )
    _add_key_commands(parsers["key"])
    for name in _COMMANDS:
        if name != "key":
            _add_json(parsers[name])
    parsers["models"].add_argument(
        "--all", action="store_true", help="also those that the catalog has disabled, and why"
    )
    for name in ("show", "start", "stop", "pin", "unpin", "run", "soak", "pull", "logs"):
        parsers[name].add_argument("model", metavar="MODEL", help="its id, as in: sparkctl models")
    parsers["stop"].add_argument(
        "--now",
        action="store_true",
        help="end running requests, or the start that is in progress, instead of waiting",
    )
    parsers["doctor"].add_argument(
        "--strict", action="store_true", help="end with 1 for warnings too"
    )
    _add_run(parsers["run"])
    _add_smoke(parsers["smoke"])
    _add_soak(parsers["soak"])
    _add_build(parsers["build"])
    _add_integrate(parsers["integrate"])
    events = parsers["events"]
    events.add_argument("model", metavar="MODEL", nargs="?", default="", help="only of this model")
    events.add_argument("--all", action="store_true", help="also each request and each idle check")
    parsers["stats"].add_argument(
        "model", metavar="MODEL", nargs="?", default="", help="only of this model"
    )
    _add_lines(parsers["logs"], "what it prints next")
    _add_lines(events, "what happens next")
    return parser


def _add_lines(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help=f"go on with {what}")
    parser.add_argument(
        "-n",
        "--lines",
        type=_line_count,
        metavar="N",
        help="only the last N lines (default: all, with -f the last 10)",
    )


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="as in: sudo sparkctl images")
    parser.add_argument(
        "options",
        metavar="OPTION",
        nargs="*",
        default=(),
        help="behind --, for podman build: -- --build-arg JOBS=4",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="*",
        help="the prompt (default: stdin; on a terminal, a conversation)",
    )


def _add_smoke(parser: argparse.ArgumentParser) -> None:
    for kind in ("utility", "default", "vision", "coder"):
        parser.add_argument(
            f"--{kind}", metavar="MODEL", default="", help=f"the model of the row {kind}"
        )


def _add_soak(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--concurrency", type=_count, metavar="N", help="requests at once (default: 5)"
    )
    parser.add_argument(
        "--answer", type=_count, metavar="TOKENS", help="length of each answer (default: 256)"
    )
    parser.add_argument(
        "--tiers",
        type=_counts,
        metavar="TOKENS,...",
        default=(),
        help="prompt lengths to try (default: from an eighth to all of the context window)",
    )


def _add_integrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("client", metavar="CLIENT", choices=CLIENTS, help=", ".join(CLIENTS))
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        default=(),
        help="these models, the first one being the client's default (default: those offered)",
    )
    parser.add_argument(
        "--url", default="", help="where the client finds the gateway (default: as on this host)"
    )
    parser.add_argument(
        "--with-key", action="store_true", help="write the key down, instead of a placeholder"
    )


def _add_key_commands(parser: argparse.ArgumentParser) -> None:
    groups = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)
    parsers = {}
    for name, text in _KEY_COMMANDS.items():
        parsers[name] = groups.add_parser(
            name, help=text, description=_sentence(text), allow_abbrev=False
        )
        _add_json(parsers[name])
    for name in ("add", "revoke"):
        parsers[name].add_argument("name", metavar="NAME", help="as which the journal knows it")
    add = parsers["add"]
    add.add_argument(
        "--scope",
        dest="scopes",
        action="append",
        type=_scope,
        metavar="SCOPE",
        help="inference, to ask models (the default), or admin, to start and stop them; may be "
        "given twice",
    )
    add.add_argument(
        "--model",
        dest="models",
        action="append",
        metavar="MODEL",
        help="only this model, or those of a pattern such as 'qwen*'; may be given several times",
    )
    add.add_argument(
        "--concurrent", type=_count, metavar="N", help="at most N requests open at a time"
    )
    add.add_argument("--per-minute", type=_count, metavar="N", help="at most N requests a minute")
    add.add_argument("--expires", metavar="DATE", help="as 2027-01-31, UTC")


def _add_json(parser: argparse.ArgumentParser) -> None:
    # No default: the default of a command would override a --json before the command.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def _exit_codes() -> str:
    lines = (f"  {code.value:>3}  {code.meaning}" for code in Exit)
    return "\n".join(["\nexit codes:", *lines])


def _line_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of requests")
    return int(text)


def _scope(text: str) -> Scope:
    if text not in list(Scope):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(Scope)}")
    return Scope(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(word) for word in text.split(","))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
