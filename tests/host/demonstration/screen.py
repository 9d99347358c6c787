# SPDX-License-Identifier: Apache-2.0
"""What the spectator sees: headings, commands, their output, and that something still goes on.

Writes to stdout only, in colour only on a terminal, and knows nothing of what is shown.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time

_WIDEST = 130
_INDENT = "  "
_QUIET_S = 10.0
"""How often a step says that it is still at work where lines cannot be rewritten."""


class Screen:
    """One spectator. A transient line says what is waited for; any output replaces it."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._in_colour = self._is_terminal and "NO_COLOR" not in os.environ
        self.width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST) - len(_INDENT)
        self._began_s = time.monotonic()
        self._transient = False
        self._next_word_s = 0.0
        self._at_line_start = True
        self._column = 0

    def heading(self, text: str) -> None:
        elapsed_s = time.monotonic() - self._began_s
        shown = self._paint("1;36", f"== {text}")
        self._write(f"\n{shown} {self._paint('2', f'[{elapsed_s:.0f} s]')}\n")

    def command(self, text: str) -> None:
        """A command as it would be typed, on one or more lines."""
        prompt = self._paint("32", "# ")
        self._write(prompt + self._paint("1", text.replace("\n", f"\n{_INDENT}")) + "\n")

    def note(self, text: str) -> None:
        self._write(self._paint("2", f"{_INDENT}{text}") + "\n")

    def output(self, text: str) -> None:
        """What a command printed, as it comes, whole lines or not."""
        self._clear()
        for piece in text.splitlines(keepends=True):
            sys.stdout.write((_INDENT if self._at_line_start else "") + piece)
            self._at_line_start = piece.endswith("\n")
        sys.stdout.flush()

    def answer(self, text: str) -> None:
        """Running text that comes word by word; lines are broken between words."""
        for word in re.findall(r"\s*\S+|\s+", text):
            if self._column + len(word) > self.width and word[0].isspace():
                self.output("\n")
                self._column = 0
            shown = word.lstrip() if self._column == 0 else word
            self.output(shown)
            self._column = len(shown.rpartition("\n")[2]) + ("\n" not in shown) * self._column

    def waiting(self, what: str, since_s: float, detail: str = "") -> None:
        """Say that something goes on. Call it often."""
        elapsed_s = time.monotonic() - since_s
        text = f"... {elapsed_s:.0f} s {what}" + (f": {detail}" if detail else "")
        if self._is_terminal:
            self._end_line()
            shown = self._paint("2", text[: self.width])
            sys.stdout.write(f"\r\x1b[K{_INDENT}{shown}")
            sys.stdout.flush()
            self._transient = True
        elif time.monotonic() >= self._next_word_s and elapsed_s >= _QUIET_S:
            self._next_word_s = time.monotonic() + _QUIET_S
            self.note(text[: self.width])

    def done_waiting(self) -> None:
        """Take the transient line away."""
        self._clear()
        self._end_line()

    def _write(self, text: str) -> None:
        self._column = 0
        self._clear()
        self._end_line()
        sys.stdout.write(text)
        sys.stdout.flush()

    def _clear(self) -> None:
        if self._transient:
            sys.stdout.write("\r\x1b[K")
            self._transient = False

    def _end_line(self) -> None:
        if not self._at_line_start:
            sys.stdout.write("\n")
            self._at_line_start = True

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._in_colour else text
