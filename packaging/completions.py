#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the bash, zsh and fish completions of `sparkctl`: `packaging/completions.py DIRECTORY`.

The commands and their arguments come from the parser of sparkctl. The placeholder of a word
selects what a shell offers for it, through `SOURCES`: model ids, for example, come from the
catalog at completion time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sparkd.sparkctl.arguments import make_parser

SOURCES = {
    "MODEL": r"""sparkctl models --json 2>/dev/null | sed -n -e 's/^    "id": "\(.*\)",$/\1/p'"""
    r""" -e '/^    "adapters": \[$/,/^    \]/s/^      "\(.*\)",*$/\1/p'""",
    "KEY": r"""sparkctl key list --json 2>/dev/null | sed -n 's/^    "name": "\(.*\)",$/\1/p'""",
    "IMAGE": "command ls /usr/share/sparkd/containerfiles /etc/sparkd/containerfiles 2>/dev/null"
    " | grep -v -e '^/' -e '^$'",
    "SCOPE": "printf '%s\\n' inference admin",
}
"""The placeholders of the command line, and the shell commands that print their candidates."""


@dataclass(frozen=True, slots=True)
class Option:
    flags: tuple[str, ...]
    value: str
    """The placeholder of its value; empty for an option without a value."""
    help: str
    several: bool


@dataclass(frozen=True, slots=True)
class Command:
    words: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    values: tuple[str, ...]
    """The placeholder of each word that it takes."""
    endless: bool
    """Whether the last word may be repeated any number of times."""

    @property
    def name(self) -> str:
        return " ".join(self.words)


def commands() -> list[Command]:
    """The parser and every command of it, groups before what is in them."""
    return list(_commands_of(make_parser(), (), ""))


def _commands_of(
    parser: argparse.ArgumentParser, words: tuple[str, ...], text: str
) -> Iterator[Command]:
    options, values, endless = [], [], False
    groups: list[tuple[str, argparse.ArgumentParser, str]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            groups = [(name, one, helps[name]) for name, one in action.choices.items()]
        elif action.option_strings:
            value = str(action.metavar or action.dest.upper()) if action.nargs != 0 else ""
            several = isinstance(action, argparse._AppendAction)
            options.append(Option(tuple(action.option_strings), value, action.help or "", several))
        else:
            values.append(_placeholder(words, action))
            endless = action.nargs == "*"
    yield Command(words, text, tuple(options), tuple(values), endless)
    for name, one, help_ in groups:
        yield from _commands_of(one, (*words, name), help_)


def _placeholder(words: tuple[str, ...], action: argparse.Action) -> str:
    if action.choices:
        return "|".join(map(str, action.choices))
    return "KEY" if words == ("key", "revoke") else str(action.metavar)


def under(command: Command, all_: list[Command]) -> list[Command]:
    """The commands that begin with this one and have one word more."""
    depth = len(command.words)
    return [one for one in all_ if one.words[:-1] == command.words and len(one.words) == depth + 1]


def source(placeholder: str) -> str:
    """The shell command that prints a placeholder's candidates; empty if there is none."""
    if "|" in placeholder:
        return "printf '%s\\n' " + placeholder.replace("|", " ")
    return SOURCES.get(placeholder, "")


def bash(all_: list[Command]) -> Iterator[str]:
    """One function finds the command, counts its words and asks the other what fits there."""
    yield "_sparkctl_offer() {"
    yield '    case "$1" in'
    yield from (f"        {name}) {text} ;;" for name, text in SOURCES.items())
    yield '        *) echo "$1" ;;'
    yield "    esac"
    yield "}"
    yield "_sparkctl() {"
    yield '    local word=${COMP_WORDS[COMP_CWORD]} command="" value="" wanted="" position=0 at'
    yield "    for ((at = 1; at < COMP_CWORD; at++)); do"
    yield '        case "$command ${COMP_WORDS[at]}" in'
    yield from _bash_values(all_)
    for command in all_[1:]:
        parent = " ".join(command.words[:-1])
        yield f'            "{parent} {command.words[-1]}") command="{command.name}" ;;'
    yield '            *" -"*) ;;'
    yield "            *) ((++position)) ;;"
    yield "        esac"
    # The value of an option, unless that is a whole word already.
    yield '        [[ -z $value ]] || { ((++at < COMP_CWORD)) && value="" || wanted=$value; }'
    yield "    done"
    yield '    [[ -n $wanted ]] || case "$command:$position:$word" in'
    for command in all_:
        yield from _bash_words(command, all_)
    yield "    esac"
    yield '    mapfile -t COMPREPLY < <(compgen -W "$(_sparkctl_offer "$wanted")" -- "$word")'
    yield "}"
    yield "complete -F _sparkctl sparkctl"


def _bash_values(all_: list[Command]) -> Iterator[str]:
    for command in all_:
        for option in command.options:
            if option.value:
                flags = "|".join(f'"{command.name} {flag}"' for flag in option.flags)
                yield f"            {flags}) value={_bash_kind(option.value)} ;;"


def _bash_words(command: Command, all_: list[Command]) -> Iterator[str]:
    flags = " ".join(flag for option in command.options for flag in option.flags)
    yield f'        "{command.name}:"*":-"*) wanted="{flags}" ;;'
    names = " ".join(one.words[-1] for one in under(command, all_))
    if names:
        yield f'        "{command.name}:0:"*) wanted="{names}" ;;'
    for number, value in enumerate(command.values):
        endless = command.endless and number == len(command.values) - 1
        place = f'"{command.name}:"*":"*' if endless else f'"{command.name}:{number}:"*'
        if source(value):
            yield f"        {place}) wanted={_bash_kind(value)} ;;"


def _bash_kind(value: str) -> str:
    """A name of a source, the words to choose from, or a space, for which nothing is offered."""
    return '"' + (value.replace("|", " ") if source(value) else " ") + '"'


def zsh(all_: list[Command]) -> Iterator[str]:
    """A function a command for `_arguments`, and one that asks a source."""
    yield "#compdef sparkctl"
    for command in all_:
        yield f"{_function(command)}() {{"
        lines = [_zsh_option(option) for option in command.options]
        below = under(command, all_)
        for number, value in enumerate(command.values, start=1):
            place = "*" if command.endless and number == len(command.values) else str(number)
            lines.append(f"'{place}:{value.replace('|', ' or ')}:{_zsh_source(value)}'")
        if below:
            lines += ["'1:command:->command'", "'*::argument:->argument'"]
            yield "    local state line context curcontext=$curcontext"
        yield "    _arguments -C \\"
        yield from (f"        {line} \\" for line in lines[:-1])
        yield f"        {lines[-1]}"
        if below:
            yield "    case $state in"
            yield "        command)"
            yield "            local -a names=("
            yield from (f"                '{one.words[-1]}:{_zsh_text(one.help)}'" for one in below)
            yield "            )"
            yield "            _describe command names ;;"
            yield "        argument)"
            yield "            case $words[1] in"
            yield from (f"                {one.words[-1]}) {_function(one)} ;;" for one in below)
            yield "            esac ;;"
            yield "    esac"
        yield "}"
    for name, text in SOURCES.items():
        yield f"_sparkctl_of_{name}() {{"
        yield f'    local -a words_of=(${{(f)"$({text})"}})'
        yield "    compadd -a words_of"
        yield "}"
    yield '_sparkctl "$@"'


def _function(command: Command) -> str:
    return "_".join(("_sparkctl", *command.words))


def _zsh_option(option: Option) -> str:
    value = f":{option.value}:{_zsh_source(option.value)}" if option.value else ""
    text = f"[{_zsh_text(option.help)}]"
    if option.several or len(option.flags) == 1:
        return f"'{'*' * option.several}{option.flags[0]}{text}{value}'"
    flags = " ".join(option.flags)
    return f"'({flags})'{{{','.join(option.flags)}}}'{text}{value}'"


def _zsh_source(value: str) -> str:
    if "|" in value:
        return f"({value.replace('|', ' ')})"
    return f"_sparkctl_of_{value}" if value in SOURCES else " "


def _zsh_text(text: str) -> str:
    for special in "\\[]:":
        text = text.replace(special, "\\" + special)
    return text.replace("'", "'\\''")


def fish(all_: list[Command]) -> Iterator[str]:
    """A line a word or option, each with the condition under which it is offered."""
    yield "complete -c sparkctl -f"
    for command in all_:
        here = _fish_condition(command, all_, under(command, all_))
        for one in under(command, all_):
            yield _fish_line(here, f"-a {one.words[-1]} -d {_quoted(one.help)}")
        for option in command.options:
            flags = " ".join(
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                for flag in option.flags
            )
            offer = f" -a {_quoted(_fish_source(option.value))}" if source(option.value) else ""
            value = f" -x{offer}" if option.value else ""
            text = f"{flags} -d {_quoted(option.help)}{value}"
            yield _fish_line(_fish_condition(command, all_, []), text)
        for value in dict.fromkeys(command.values):
            if source(value):
                yield _fish_line(here, f"-a {_quoted(_fish_source(value))}")


def _fish_condition(command: Command, all_: list[Command], before: list[Command]) -> str:
    """True behind the words of a command, and in front of those of the commands under it."""
    seen = [f"__fish_seen_subcommand_from {word}" for word in command.words]
    # `show` is a command, and one of `key` too.
    same = [one.words[0] for one in all_ if one.words[1:] == command.words != ()]
    unseen = [*same, *(one.words[-1] for one in before)]
    return "; and ".join(
        [*seen, *([f"not __fish_seen_subcommand_from {' '.join(unseen)}"] * bool(unseen))]
    )


def _fish_line(condition: str, text: str) -> str:
    return f"complete -c sparkctl {f'-n {_quoted(condition)} ' if condition else ''}{text}"


def _fish_source(value: str) -> str:
    command = source(value)
    return f"({command})" if command else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    all_ = commands()
    for name, lines in (("sparkctl", bash), ("_sparkctl", zsh), ("sparkctl.fish", fish)):
        head = "# SPDX-License-Identifier: Apache-2.0"
        first, *rest = lines(all_)
        # zsh looks for its mark in the first line.
        text = [first, head, *rest] if lines is zsh else [head, first, *rest]
        (directory / name).write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
