# SPDX-License-Identifier: Apache-2.0
"""Options on a command line as vLLM's parser reads them: prefixes, underscores, dotted fields.

The parser is argparse with additions of vLLM: the first letters of an option mean that option,
underscores mean dashes before the first dot, `--option.field=1` sets a field of an option, and the
last value of an option wins. Pure; the options that sparkd decides are in
`core.config.model_subkeys`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_OPTION = re.compile(r"--[A-Za-z0-9._-]+")
_NEGATION = "no-"
_SHORTEST = 2
"""argparse refuses an ambiguous prefix, and one letter begins several options of vLLM."""


def written_option(word: str) -> str | None:
    """The option of a word as it is written, without its value; None for other words."""
    found = _OPTION.match(word)
    return found[0] if found else None


def normalized(option: str) -> str:
    """The name of a written option: without dashes in front, field, underscores and capitals."""
    return option.removeprefix("--").partition(".")[0].replace("_", "-").lower()


def reserved_option(option: str, reserved: Iterable[str]) -> str | None:
    """The reserved option that a written option means, by its name, its negation or a prefix."""
    names = list(reserved)
    name = normalized(option)
    if name in names:
        return name
    for candidate in (name, name.removeprefix(_NEGATION)):
        if candidate in names:
            return candidate
        found = next((one for one in names if one.startswith(candidate)), None)
        if found is not None and len(candidate) >= _SHORTEST:
            return found
    return None


def option_value(args: Iterable[str], option: str, shortest: str) -> str | None:
    """The last value of an option, or of a prefix of it that is not shorter than `shortest`.

    None when the option is not there. An option without a value has an empty one.
    """
    found: str | None = None
    awaited = False
    for word in args:
        written = written_option(word)
        if written is None:
            found = word if awaited else found
            awaited = False
            continue
        rest = word[len(written) :]
        name = normalized(written)
        meant = name.startswith(shortest) and option.startswith(name) and "." not in written
        awaited = meant and not rest
        if meant:
            found = rest.removeprefix("=")
    return found
