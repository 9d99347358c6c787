# SPDX-License-Identifier: Apache-2.0
"""Facts that documents state in passing: figures, command lines, ids of events.

Tables of the reference have tests of their own. Figures are pinned by value, not by sentence: a
constant that changes fails here, with the place in the documentation that has to change too.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from sparkd.adapters.files import records
from sparkd.core import names
from sparkd.core.access import quota
from sparkd.core.clients import soak
from sparkd.core.diagnosis.gpu import accepted_version
from sparkd.core.engine import metrics_page
from sparkd.core.http import request_parser
from sparkd.core.model import Settings
from sparkd.core.scheduling import backoff, busy
from sparkd.core.scheduling.policy import PolicyInput
from sparkd.core.telemetry import session, traffic
from sparkd.core.telemetry.events import EventKind
from sparkd.fetch import puller
from sparkd.gateway import shared_readings
from sparkd.gateway.handlers import events as streams
from sparkd.gateway.handlers import keep_alive_timer, logs, relay
from sparkd.gateway.http import client_link, protocol, unauthenticated
from sparkd.lifecycle import sampling
from sparkd.lifecycle.start import memory_guard
from sparkd.observe import event_feed, metrics
from sparkd.sparkctl.arguments import _COMMANDS, _KEY_COMMANDS, parse
from tests.unit.project.sources import ROOT
from tests.unit.project.test_docs_true import DOCUMENTS

SETTINGS = Settings()
PATIENCE_S = PolicyInput.__dataclass_fields__["memory_patience_s"].default
PAUSES_S = [round(backoff.until(0, count)) for count in range(1, backoff.GIVE_UP_AFTER)]

FIGURES = [
    ("README.md", "a minute later `sparkd.service`", SETTINGS.idle_exit_s, 60),
    (
        "docs/quickstart.md",
        "(20 minutes, if its entry says nothing)",
        SETTINGS.idle_timeout_s,
        1200,
    ),
    ("docs/quickstart.md", "After another minute the gateway leaves", SETTINGS.idle_exit_s, 60),
    ("docs/architecture.md", "to a minute after the last", SETTINGS.idle_exit_s, 60),
    ("docs/install.md", "4.3 reads up to 0.5.0", accepted_version((4, 3)), (0, 5, 0)),
    ("docs/install.md", "5.4 up to 0.8.0", accepted_version((5, 4)), (0, 8, 0)),
    ("docs/models.md", "79 characters at most", names.MAX_ESCAPED_CHARS, 79),
    ("docs/models.md", "made after 1 minute, then 2, 4 and 8;", PAUSES_S, [60, 120, 240, 480]),
    ("docs/models.md", "after five failures in a row none is", backoff.GIVE_UP_AFTER, 5),
    ("docs/models.md", "in its last ten loads (the median)", records._LOADS_KEPT, 10),
    ("docs/models.md", "read four times a second", memory_guard._SAMPLE_S, 0.25),
    ("docs/observability.md", "an hour at most", event_feed.BACKLOG_MAX_S, 3600),
    ("docs/observability.md", "takes nothing for ten seconds is", streams._STALL_S, 10),
    ("docs/observability.md", "A comment every 15 seconds", streams._ALIVE_S, 15),
    ("docs/observability.md", "`retry: 300000`", streams._COME_BACK_MS, 300_000),
    ("docs/observability.md", "comes back after five minutes", streams._COME_BACK_MS, 300_000),
    ("docs/observability.md", "answer within a second", metrics._ENGINE_TIMEOUT_S, 1),
    ("docs/observability.md", "more than 2,000 series", metrics_page.SERIES_MAX, 2000),
    ("docs/observability.md", "past 4,000 label sets", traffic.LABEL_SETS_MAX, 4000),
    ("docs/observability.md", "at most every 30 seconds while it is", sampling._PAUSE_S, 30),
    ("docs/explanation/scheduling.md", "come back for 20 s", PATIENCE_S, 20),
    ("docs/reference/cli.md", "the last 20 that ended", session.RECENT_MAX, 20),
    ("docs/reference/cli.md", "Up to four files are fetched at a time", puller._AT_ONCE, 4),
    (
        "docs/reference/cli.md",
        "an eighth, a quarter, half and three quarters",
        soak.SHARES,
        (1 / 8, 1 / 4, 1 / 2, 3 / 4),
    ),
    ("docs/reference/http-api.md", "in seconds, 60 at most", busy.RETRY_AFTER_MAX_S, 60),
    ("docs/reference/http-api.md", "30 s from its first byte", protocol.HEAD_S, 30),
    (
        "docs/reference/http-api.md",
        "last answer | 4096 |",
        unauthenticated.UNAUTHENTICATED_MOST,
        4096,
    ),
    ("docs/reference/http-api.md", "pause within a body | 60 s |", relay._BODY_STALL_S, 60),
    (
        "docs/reference/http-api.md",
        "4 KiB a second, after the first minute",
        (relay._BODY_SLOWEST_BYTES_S, relay._BODY_STALL_S),
        (4096, 60),
    ),
    (
        "docs/reference/http-api.md",
        "take its response | 60 s; 10 s while another model",
        (client_link.STALL_S, client_link.STALL_WANTED_S),
        (60, 10),
    ),
    ("docs/reference/http-api.md", "it gets one every 10 s", keep_alive_timer.INTERVAL_S, 10),
    (
        "docs/reference/http-api.md",
        "on a connection | 125 s; `keep-alive: timeout=120` tells",
        (protocol.KEEP_ALIVE_S, protocol._TOLD_KEEP_ALIVE_S),
        (125, 120),
    ),
    (
        "docs/reference/http-api.md",
        "64 KiB, 256 headers",
        (request_parser.HEAD_BYTES, request_parser.HEADER_LINES),
        (65536, 256),
    ),
    (
        "docs/reference/http-api.md",
        "300 a minute, 16 streams",
        (quota.READS_PER_MINUTE, quota.LISTENERS_MOST),
        (300, 16),
    ),
    (
        "docs/reference/http-api.md",
        "from one address | 20 a minute",
        (quota.WRONG_KEYS_MOST, quota._MINUTE_S),
        (20, 60),
    ),
    (
        "docs/reference/http-api.md",
        "twice `body_limit` for at most 30 s",
        (protocol._LINGER_BODIES, protocol.LINGER_S),
        (2, 30),
    ),
    ("docs/reference/http-api.md", "at most four a second", shared_readings.PAUSE_S, 0.25),
    ("docs/reference/http-api.md", "can be a second old", shared_readings.STATES_AGE_S, 1),
    ("docs/reference/http-api.md", "the last `lines` (200)", logs._LINES, 200),
]


@pytest.mark.parametrize(
    ("document", "words", "value", "figure"), FIGURES, ids=[words for _, words, _, _ in FIGURES]
)
def test_figure_of_a_document_is_the_one_that_holds(
    document: str, words: str, value: object, figure: object
) -> None:
    assert value == figure, f"{document} has the old value: {words!r}"
    assert (ROOT / document).is_file()


def test_page_rests_when_the_document_says() -> None:
    script = (ROOT / "sparkd/gateway/page/6-main.js").read_text()
    text = (ROOT / "docs/status-page.md").read_text()
    (rest_ms,) = re.findall(r"const REST_AFTER_MS = ([0-9_]+);", script)
    assert f"{int(rest_ms) // 1000} seconds" in text


def test_versions_of_clients_are_those_that_the_tests_take() -> None:
    python = (ROOT / "tests/clients/python/libraries.in").read_text()
    node = json.loads((ROOT / "tests/clients/node/package.json").read_text())["dependencies"]
    taken = {*re.findall(r"==(\S+)", python), *node.values()}
    rows = (ROOT / "docs/reference/clients.md").read_text().partition("## ")[0]
    assert set(re.findall(r"^\| [^|]+ \| ([0-9][0-9.]+)", rows, re.MULTILINE)) == taken
    text = (ROOT / "docs/integrations.md").read_text()
    assert node["opencode-ai"] in text
    assert node["cline"] in text


def code_of(document: Path) -> Iterator[str]:
    """Lines of code blocks, and words of code in sentences."""
    text = document.read_text()
    for block in re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from (line for line in block.splitlines() if not line.startswith("#"))
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def command_lines(document: Path) -> Iterator[list[str]]:
    """What is said to sparkctl; forms with choices in them are no command lines."""
    for code in code_of(document):
        for found in re.findall(r"(?:^|sudo |; |\$\()sparkctl ([a-z][^;|>)]*)", code):
            if not re.search(r"\[[A-Z-]|\.\.\.|…", found):
                yield shlex.split(found.replace("CLIENT", "env"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_that_are_shown_are_understood(document: Path) -> None:
    for words in command_lines(document):
        # A command alone is mostly its name, whatever it wants to be given.
        if words[0] == "key":
            assert words[1] in _KEY_COMMANDS, words
        assert words[0] in _COMMANDS, words
        if len(words) > (2 if words[0] == "key" else 1):
            parse(words)


PROGRAMS = r"(?:sudo|sparkctl|journalctl|systemctl|flock|curl|tests/host/host|python3|podman|make)"


def pasted(document: Path) -> Iterator[str]:
    """Each command of the code blocks, its continued lines joined."""
    fenced = re.compile(r"^ *```(?:bash|sh)?\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
    for block in fenced.findall(document.read_text()):
        for line in re.sub(r" *\\\n *", " ", block).splitlines():
            if re.match(rf" *(?:\$ )?{PROGRAMS} ", line):
                yield line.strip()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_can_be_pasted_whole(document: Path) -> None:
    for line in pasted(document):
        if line.count("'") % 2:
            continue  # Its quoted argument goes on in the next lines.
        words = shlex.split(line)
        assert "#" not in words, line
        command = line.removeprefix("sudo ").split(" -- ")[0]
        assert not re.search(r"\S {3,}[A-Za-z]", command), f"prose behind a command: {line}"
        if document.name != "cli.md" and re.match(r"(?:sudo )?sparkctl [a-z]", line):
            ours = re.split(r" [|&;>] ?|; ", line)[0]
            parse(shlex.split(ours.removeprefix("sudo ").removeprefix("sparkctl ")))


def test_examples_of_curl_work_with_that_of_older_distributions() -> None:
    asked = [line for document in DOCUMENTS for line in pasted(document) if "curl " in line]
    assert len(asked) >= 10
    assert [line for line in asked if " --json" in line] == []


EVERYBODY = {"check", "doctor", "integrate", "models", "show", "status"}
"""What works without root, as docs/reference/cli.md has it."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_can_be_copied_by_whoever_may_use_sudo(document: Path) -> None:
    text = document.read_text()
    if document.name == "cli.md":
        (row,) = re.findall(r"^\| everyone \| (.+) \|$", text, re.MULTILINE)
        assert set(re.findall("`([a-z]+)`", row.partition(", in which")[0])) == EVERYBODY
        return
    for block in re.findall(r"^ *```.*?\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        bare = re.findall(
            r"(?:^ *|[;|&] )(?:sparkctl ([a-z]+)|journalctl|systemctl --user -M)",
            block,
            re.MULTILINE,
        )
        assert set(bare) <= EVERYBODY, block


def test_command_lines_are_found() -> None:
    found = [words[0] for document in DOCUMENTS for words in command_lines(document)]
    assert len(found) > 100
    assert set(_COMMANDS) == set(found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_matches_for_the_journal_that_are_shown_find_something(document: Path) -> None:
    text = document.read_text()
    ids = {event.message_id for event in EventKind}
    assert set(re.findall(r"MESSAGE_ID=([0-9a-f]+)", text)) <= ids
    assert set(re.findall(r"SPARKD_EVENT=([a-z-]+)", text)) <= {event.label for event in EventKind}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_row_stands_in_a_table_and_has_its_cells(document: Path) -> None:
    lines = ["", *document.read_text().splitlines()]
    cells = [len(re.findall(r"(?<!\\)\|", line)) if line[:1] == "|" else 0 for line in lines]
    uneven = [n for n, (a, b) in enumerate(pairwise(cells), 1) if a and b not in (0, a)]
    assert uneven == []
    rows = [number for number, line in enumerate(lines) if line.startswith("|")]
    heads = [number for number in rows if not lines[number - 1].startswith("|")]
    assert [
        lines[number] for number in heads if not lines[number + 1].startswith(("|-", "| -"))
    ] == []
