# SPDX-License-Identifier: Apache-2.0
"""`sparkctl run`: a prompt to a model through the gateway, and its answer.

Without a prompt on a terminal it starts a conversation. Load progress and the model's reasoning
go to stderr. Ctrl-C ends the answer and the model's work on it.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparkd.core.errors import SparkdError
from sparkd.sparkctl import gateway_address, output, progress
from sparkd.sparkctl.arguments import Options
from sparkd.sparkctl.exit_codes import Exit, UsageError

if TYPE_CHECKING:
    from sparkd.adapters.gateway_client import Gateway

_PATH = "/v1/chat/completions"
_LINE_INTERVAL_S = 15.0
_STDIN = "-"


def run(options: Options) -> Exit:
    url, key = gateway_address.url(), gateway_address.key(options.words)
    chat = Chat(url=url, key=key, model=options.model)
    if not options.prompt and sys.stdin.isatty():
        return _converse(chat)
    prompt = " ".join(options.prompt)
    if prompt in ("", _STDIN):
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise UsageError("there is no prompt", hint=f"sudo sparkctl run {options.model} 'Hello'")
    answer = chat.ask(prompt, shown=not options.json)
    if options.json:
        output.print_json(answer.as_json(options.model))
    return Exit.OK


@dataclass(slots=True)
class Answer:
    """The part of a model's answer that has arrived."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    usage: dict[str, Any] | None = None
    began_s: float = field(default_factory=time.monotonic)

    def add(self, event: dict[str, Any]) -> tuple[str, str]:
        """Add a chunk, and return its reasoning and its text."""
        self.usage = event.get("usage") or self.usage
        choices: list[dict[str, Any]] = event.get("choices") or [{}]
        choice = choices[0]
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or {}
        # vLLM renamed the field, and other engines use both names.
        reasoning = str(delta.get("reasoning") or delta.get("reasoning_content") or "")
        text = str(delta.get("content") or "")
        self.reasoning += reasoning
        self.text += text
        return reasoning, text

    def as_json(self, model_id: str) -> dict[str, object]:
        return {
            "id": model_id,
            "text": self.text,
            "reasoning": self.reasoning or None,
            "finish_reason": self.finish,
            "usage": self.usage,
            "seconds": round(time.monotonic() - self.began_s, 3),
        }


class Chat:
    """A conversation with one model."""

    def __init__(self, *, url: str, key: str, model: str) -> None:
        self._url, self._key, self._model = url, key, model
        self._messages: list[dict[str, str]] = []

    def ask(self, prompt: str, *, shown: bool) -> Answer:
        """Send a prompt and receive the answer. A prompt without an answer is discarded."""
        self._messages.append({"role": "user", "content": prompt})
        answer = Answer()
        try:
            progress.run_quietly(self._receive(answer, Screen() if shown else None))
        except BaseException:
            self._messages.pop()
            raise
        self._messages.append({"role": "assistant", "content": answer.text})
        return answer

    async def _receive(self, answer: Answer, screen: Screen | None) -> None:
        from sparkd.adapters.gateway_client import Gateway

        body: dict[str, object] = {
            "model": self._model,
            "messages": self._messages,
            "stream_options": {"include_usage": True},
        }
        notices = Notices()
        try:
            async with Gateway(self._url, self._key) as client:
                await _read(client, body, answer, notices, screen)
        finally:
            notices.clear()
            if screen is not None:
                screen.end()


async def _read(
    client: Gateway,
    body: dict[str, object],
    answer: Answer,
    notices: Notices,
    screen: Screen | None,
) -> None:
    async with client.stream(_PATH, body) as stream:
        async for item in stream.items():
            if item.is_comment:
                if not answer.text and not answer.reasoning:
                    notices.show(item.text)
                continue
            reasoning, text = answer.add(json.loads(item.text))
            if reasoning or text:
                notices.clear()
            if screen is not None:
                screen.show(reasoning, text)


class Screen:
    """The answer on stdout as it arrives, and on a terminal the dimmed reasoning on stderr."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and sys.stdout.isatty()
        self._thinks, self._open_line = False, False

    def show(self, reasoning: str, text: str) -> None:
        if reasoning and self._terminal:
            self._thinks = True
            print(f"\033[2m{_harmless(reasoning)}\033[0m", end="", file=sys.stderr, flush=True)
        if text:
            if self._thinks:
                self._thinks = False
                print("\n", file=sys.stderr, flush=True)
            self._open_line = not text.endswith("\n")
            # Files and pipes get the text unchanged.
            shown = _harmless(text) if self._terminal else text
            print(shown, end="", flush=True)

    def end(self) -> None:
        if self._open_line:
            print(flush=True)


class Notices:
    """The gateway's notices during a wait: a changing line on a terminal, else a periodic one."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown, self._shown_s = False, 0.0

    def show(self, text: str) -> None:
        now_s = time.monotonic()
        line = output.printable(text.removeprefix("sparkd "))
        if self._terminal:
            print(f"{output.CLEAR_LINE}{line}", end="", file=sys.stderr, flush=True)
        elif not self._shown or now_s - self._shown_s >= _LINE_INTERVAL_S:
            print(line, file=sys.stderr, flush=True)
            self._shown_s = now_s
        self._shown = True

    def clear(self) -> None:
        if self._terminal and self._shown:
            print(output.CLEAR_LINE, end="", file=sys.stderr, flush=True)
        self._shown = False


def _converse(chat: Chat) -> Exit:
    # An import of readline would enable line editing.

    print("an empty line or Ctrl-D ends it, Ctrl-C an answer", file=sys.stderr)
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print()
            return Exit.OK
        if not prompt.strip():
            return Exit.OK
        try:
            chat.ask(prompt, shown=True)
        except KeyboardInterrupt:
            print("(ended)", file=sys.stderr)
        except SparkdError as error:
            output.print_error(error)


def _harmless(text: str) -> str:
    """The text without terminal control characters."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
