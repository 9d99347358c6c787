# SPDX-License-Identifier: Apache-2.0
"""Text that an engine printed, made safe to show in errors, events, logs and the status page.

An engine prints progress bars, colors and whatever its libraries print. A terminal, a client and
the journal get plain lines of bounded length instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sparkd.core.telemetry.events import field_text

LINE_LIMIT = 200
"""Characters of one line of a model's last words."""
WORDS_LIMIT_BYTES = 2048
"""All last words together, in UTF-8."""
WORDS_LINES = 8
LOG_LINE_LIMIT = 16_384
"""Characters of a line that `sparkctl logs` shows: conmon splits longer ones."""
_SEPARATOR = " | "

_ESCAPE = re.compile(
    r"\x1b\[[0-?]{0,64}[ -/]{0,16}[@-~]"  # CSI: colors, cursor movements
    r"|\x1b[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?"  # OSC, DCS and other strings
    r"|\x1b[ -/]{0,16}[0-~]?"  # any other sequence, or a lone escape
    r"|\x9b[0-?]{0,64}[ -/]{0,16}[@-~]?"
)


def plain(text: str, *, limit: int = LINE_LIMIT) -> str:
    """One line as a terminal would show it in the end, without anything that steers a terminal.

    Of segments that a carriage return overwrites, the last non-empty one counts.
    """
    without = _ESCAPE.sub("", text)
    segments = [_printable(part).strip() for part in re.split(r"[\r\n]", without)]
    line = next((part for part in reversed(segments) if part), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def last_words(lines: Iterable[str]) -> str:
    """The end of what an engine printed, as one bounded line; empty when it printed nothing."""
    words: list[str] = []
    size = 0
    for line in reversed([plain(line) for line in lines]):
        if not line or (words and words[-1] == line):
            continue
        size += len((line + _SEPARATOR).encode(errors="replace"))
        if size > WORDS_LIMIT_BYTES or len(words) == WORDS_LINES:
            break
        words.append(line)
    return _SEPARATOR.join(reversed(words))


def logged(entry: Mapping[str, object]) -> str:
    """The text of one entry of `journalctl --output=json --all`, with its indentation."""
    text = field_text(entry.get("MESSAGE"))
    indent = len(text) - len(text.lstrip(" "))
    shown = plain(text, limit=LOG_LINE_LIMIT)
    return " " * min(indent, LINE_LIMIT) + shown if shown else ""


def exit_words(code: int) -> str:
    """An exit code in words, with the signal that it stands for."""
    number = code - 128
    name = _SIGNALS.get(number)
    return f"code {code} ({name})" if name else f"code {code}"


_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    15: "SIGTERM",
    31: "SIGSYS",
}


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
