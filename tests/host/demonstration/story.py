# SPDX-License-Identifier: Apache-2.0
"""What is shown, in which order, and what must be seen for it to be true.

Every command that appears is the one that runs, as a person would type it on a machine with the
package. A section that does not show what its heading says ends the demonstration.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from .stage import HOST, DemoError, Stage

MODEL_IDLE_S = 12
DAEMON_IDLE_S = 5
_GONE_LIMIT_S = 60
_ANSWER_LIMIT_S = 330
"""A little more than the load timeout of the slowest model here."""
_UNITS = "systemctl list-units --all --no-legend sparkd.socket sparkd.service"
_ASK = """\
curl --fail-with-body -sSN http://127.0.0.1:8009/v1/chat/completions \\
     -H "Authorization: Bearer $(sparkctl key show | tail -n1)" \\
     --json '{{"model": "{model}", "stream": true, "temperature": 0{limit},
             "messages": [{{"role": "user", "content": "{question}"}}]}}' |
  sed -u 's/^data: //' |
  jq -Rj --unbuffered 'fromjson? | .choices[0].delta.content // .error.message // empty'"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Which engine and model play."""

    engine: str
    model: str
    catalog: str
    limit: str = ""
    """More of the request's body: what keeps an answer short."""

    @property
    def scope(self) -> str:
        return f"sparkd-model-{self.model}.scope"


VLLM = Cast(
    engine="vllm", model="smollm2-135m", catalog="smollm2.yaml", limit=', "max_tokens": 100'
)
FAKE = Cast(engine="fake", model="fake-a", catalog="fake.yaml")


def play(stage: Stage, cast: Cast) -> None:
    """Everything, from the build to the last answer. Raises DemoError."""
    screen = stage.screen
    _prepare(stage, cast)
    _shorten_times(stage, cast)

    screen.heading("One command turns it on: the port is open, and nothing runs")
    stage.show("systemctl enable --now sparkd.socket")
    _expect_units(stage, service="inactive")

    screen.heading(f"The first request starts {cast.model} and streams its answer")
    _ask(stage, cast, "Who was Ada Lovelace? Answer in two sentences.")

    _look_around(stage, cast)
    _see_it_leave(stage, cast)

    screen.heading("A new request brings all of it back")
    _ask(stage, cast, "What is the capital of France?")
    _expect(cast.model in stage.show("sparkctl ps"), "the model runs again")
    _expect_units(stage, service="active")


def _prepare(stage: Stage, cast: Cast) -> None:
    stage.screen.heading("Build the package")
    stage.build("make deb", ["make", "--silent", "deb"])
    stage.screen.heading("Boot a Debian 13 of its own, install the package, load the engine")
    up = [str(HOST), "up", "--name", stage.name, "--engine", cast.engine]
    stage.build(f"host up --engine {cast.engine}", up)
    # A test host comes with the socket enabled, and that is to be seen.
    stage.quietly("systemctl disable --now sparkd.socket sparkd.service 2>&1")


def _shorten_times(stage: Stage, cast: Cast) -> None:
    stage.screen.heading(
        f"Short times, to see the end of it: {MODEL_IDLE_S} s for the model, {DAEMON_IDLE_S} s for"
        " the daemon"
    )
    catalog = f"/etc/sparkd/models.d/{cast.catalog}"
    stage.show(f"echo 'idle_exit: {DAEMON_IDLE_S}s' >/etc/sparkd/sparkd.yaml")
    stage.show(
        f"sed -i '/^  {cast.model}:/,/^$/ s/idle_timeout: .*/idle_timeout: {MODEL_IDLE_S}s/'"
        f" {catalog}"
    )
    entry = stage.show(f"sed -n '/^  {cast.model}:/,/^$/p' {catalog}")
    _expect(f"idle_timeout: {MODEL_IDLE_S}s" in entry, "the entry has the new idle timeout")
    stage.show("sparkctl check")


def _ask(stage: Stage, cast: Cast, question: str) -> None:
    """Ask, print the answer as it comes, say how long it took."""
    screen = stage.screen
    command = _ASK.format(model=cast.model, limit=cast.limit, question=question)
    screen.command(command)
    printed = f"CONTAINER_NAME=sparkd-model-{cast.model} _COMM=conmon"
    follow = f"journalctl -f -n0 -o cat SYSLOG_IDENTIFIER=sparkd + {printed}"
    began_s = time.monotonic()
    first_s, answer = 0.0, ""
    with stage.last_line_of(follow) as last_line:

        def tell() -> None:
            if not answer:
                screen.waiting(f"until {cast.model} is loaded", began_s, last_line())

        for piece in stage.stream(command, tell, _ANSWER_LIMIT_S):
            first_s = first_s or time.monotonic() - began_s
            answer += piece
            screen.answer(piece)
    screen.done_waiting()
    _expect(bool(answer.strip()), "an answer")
    rest_s = time.monotonic() - began_s - first_s
    screen.note(f"(first token after {first_s:.1f} s, the rest within {rest_s:.1f} s)")


def _look_around(stage: Stage, cast: Cast) -> None:
    """What is there while the model runs; must take less than its idle timeout."""
    screen = stage.screen
    screen.heading("systemd knows the model: its processes are in a scope of its own")
    tree = stage.show("systemctl --user -M sparkd@ status sparkd.slice")
    _expect(cast.scope in tree, f"{cast.scope} in the tree")

    screen.heading("A timer will end it, whether or not the daemon lives")
    timers = stage.show("systemctl --user -M sparkd@ list-timers --full --no-legend")
    _expect(f"sparkd-idle@{cast.model}.timer" in timers, "the model's idle timer")

    screen.heading("The engine itself holds the GPU lock; another program is refused")
    refused = stage.show("flock -n /run/sparkd/gpu.lock echo it is mine || echo refused: $?")
    _expect(refused.strip() == "refused: 1", "flock refused")
    held = stage.show("sparkctl status")
    _expect(f"held by model {cast.model}" in held, "who holds the GPU")

    screen.heading("What the model prints is in the journal, under its scope")
    said = stage.show(f"journalctl -n 5 --no-hostname _SYSTEMD_USER_UNIT={cast.scope}")
    _expect(f"sparkd-model-{cast.model}" in said, "lines of the model")


def _see_it_leave(stage: Stage, cast: Cast) -> None:
    """The two ends that come by themselves: the model's, then the daemon's."""
    screen = stage.screen
    screen.heading("Nobody asks any more: the timer stops the model")
    stage.wait_until(
        f"! systemctl --user -M sparkd@ --quiet is-active {cast.scope}",
        f"until {cast.model} has been idle for {MODEL_IDLE_S} s",
        MODEL_IDLE_S + _GONE_LIMIT_S,
    )
    stopped = f"model {cast.model} was stopped after being idle"
    stage.wait_until(
        f'journalctl -t sparkd -o cat | grep -q "{stopped}"', "for its line in the journal", 10
    )
    stage.show("journalctl -t sparkd -n 5 --no-hostname")
    stage.show("flock -n /run/sparkd/gpu.lock echo the GPU is free")

    screen.heading("No model, no request: the daemon leaves too, and the port stays open")
    stage.wait_until(
        "systemctl is-active sparkd.service | grep -qx inactive",
        f"until the daemon has been idle for {DAEMON_IDLE_S} s",
        DAEMON_IDLE_S + _GONE_LIMIT_S,
    )
    _expect_units(stage, service="inactive")


def _expect_units(stage: Stage, *, service: str) -> None:
    shown = stage.show(_UNITS)
    rows = [line.split() for line in shown.splitlines()]
    states = {words[0]: words[2] for words in rows if words}
    _expect(
        states == {"sparkd.socket": "active", "sparkd.service": service},
        f"an active socket and a service that is {service}",
    )


def _expect(is_seen: bool, what: str) -> None:
    if not is_seen:
        raise DemoError(f"expected to see {what}")
