# SPDX-License-Identifier: Apache-2.0
"""The journal's own protocol, as a socket receives it: fields, priorities, and never a key."""

from __future__ import annotations

import logging
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.adapters.journal.writer import NOTICE, JournalHandler, Redact, fields, note
from sparkd.core.telemetry.events import EventKind

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-planted-0123456789abcdef"


class Journal:
    """The receiving end: what journald would have got."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(60)

    def entry(self) -> dict[str, str]:
        """The next entry, read as systemd's JOURNAL_NATIVE_PROTOCOL says."""
        rest, found = self._socket.recv(1 << 20), {}
        while rest:
            line, _, rest = rest.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (size,) = struct.unpack_from("<Q", rest)
                value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
                assert end == b"\n"
            assert name.decode() not in found, "a field that stands twice"
            found[name.decode()] = value.decode()
        return found

    def waiting(self) -> list[dict[str, str]]:
        """All entries that have come."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            found.append(self.entry())
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


@pytest.fixture
def log(journal: Journal) -> Iterator[logging.Logger]:
    """A logger of its own that writes to `journal` as sparkd's do."""
    handler = JournalHandler(str(journal.path))
    handler.addFilter(Redact())
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("sparkd.test")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    handler.close()


def test_entry_carries_text_identity_and_the_fields_of_its_event(
    log: logging.Logger, journal: Journal
) -> None:
    log.info("%s is %d", "it", 7, extra=fields(EventKind.REQUEST, model="fake-a", status=200))
    assert journal.entry() == {
        "MESSAGE": "it is 7",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "sparkd",
        "CODE_MODULE": "sparkd.test",
        "MESSAGE_ID": EventKind.REQUEST.message_id,
        "SPARKD_EVENT": "request",
        "SPARKD_MODEL": "fake-a",
        "SPARKD_STATUS": "200",
    }


@pytest.fixture
def direct(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Iterator[JournalHandler]:
    """What `note` writes to, as `configure` sets it."""
    handler = JournalHandler(str(journal.path))
    monkeypatch.setattr("sparkd.adapters.journal.writer._direct", handler)
    yield handler
    handler.close()


def test_note_of_a_request_is_the_entry_that_logging_would_write(
    log: logging.Logger, direct: JournalHandler, journal: Journal
) -> None:
    values = {"model": "fäke", "status": 200, "reason": None}
    log.info("it is 7", extra=fields(EventKind.REQUEST, **values))
    note("sparkd.test", EventKind.REQUEST, "it is 7", **values)
    assert journal.entry() == journal.entry()


def test_note_with_a_line_break_forges_no_field(direct: JournalHandler, journal: Journal) -> None:
    entries: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = entries.append  # type: ignore[method-assign]
    logging.getLogger("sparkd.test").addHandler(handler)
    try:
        logging.getLogger("sparkd.test").setLevel(logging.INFO)
        note("sparkd.test", EventKind.REQUEST, "x", model="a\nPRIORITY=0")
    finally:
        logging.getLogger("sparkd.test").removeHandler(handler)
    (entry,) = entries
    assert entry.journal["SPARKD_MODEL"] == "a\nPRIORITY=0"  # type: ignore[attr-defined]
    note("sparkd.test", EventKind.REQUEST, "next")
    assert journal.entry()["MESSAGE"] == "next"


def test_note_never_carries_a_key(direct: JournalHandler, journal: Journal) -> None:
    note("sparkd.test", EventKind.REQUEST, f"Bearer {KEY}", request_id=KEY)
    assert KEY not in str(journal.entry())


def test_journal_whose_socket_was_replaced_is_found_again(
    direct: JournalHandler, journal: Journal
) -> None:
    note("sparkd.test", EventKind.REQUEST, "before")
    journal.close()
    journal.path.unlink()
    again = Journal(journal.path)
    note("sparkd.test", EventKind.REQUEST, "after")
    assert again.entry()["MESSAGE"] == "after"
    again.close()


def test_field_without_a_value_is_left_out(log: logging.Logger, journal: Journal) -> None:
    log.info("x", extra=fields(EventKind.REQUEST, reason=None, duration_ms=0))
    entry = journal.entry()
    assert "SPARKD_REASON" not in entry
    assert entry["SPARKD_DURATION_MS"] == "0"


def test_entry_without_an_event_is_an_entry(log: logging.Logger, journal: Journal) -> None:
    log.warning("plain")
    assert set(journal.entry()) == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "CODE_MODULE"}


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, "2"),
        (logging.ERROR, "3"),
        (logging.WARNING, "4"),
        (NOTICE, "5"),
        (logging.INFO, "6"),
        (logging.DEBUG, "7"),
        (logging.ERROR + 5, "3"),
    ],
)
def test_level_becomes_the_priority_of_syslog(
    log: logging.Logger, journal: Journal, level: int, priority: str
) -> None:
    log.log(level, "x")
    assert journal.entry()["PRIORITY"] == priority


@pytest.mark.parametrize(
    "text", ["one\ntwo", "\n", "", "PRIORITY=0\nMESSAGE=forged", "ä\n€ 🙂", "a\0b"]
)
def test_any_text_arrives_whole_in_its_own_field(
    log: logging.Logger, journal: Journal, text: str
) -> None:
    log.info("%s", text, extra=fields(EventKind.REQUEST, model=text))
    entry = journal.entry()
    assert (entry["MESSAGE"], entry["SPARKD_MODEL"]) == (text, text)
    assert entry["PRIORITY"] == "6"


def test_text_that_is_no_unicode_is_still_logged(log: logging.Logger, journal: Journal) -> None:
    log.info("a\udcffb")
    assert journal.entry()["MESSAGE"] == "a?b"


def test_traceback_is_part_of_the_text(log: logging.Logger, journal: Journal) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed")
    message = journal.entry()["MESSAGE"]
    assert message.startswith("it failed\nTraceback")
    assert message.endswith("ValueError: broken")


@pytest.mark.parametrize("shown", [f"key {KEY}", f"Authorization: bearer {KEY[3:]}", f"{KEY}\n"])
def test_what_looks_like_a_key_is_cut_from_text_traceback_and_fields(
    log: logging.Logger, journal: Journal, shown: str
) -> None:
    try:
        raise ValueError(shown)
    except ValueError:
        log.exception("%s", shown, extra=fields(EventKind.REQUEST, model=shown))
    entry = journal.entry()
    assert KEY[3:] not in str(entry)
    assert entry["MESSAGE"].count("***") == 2  # the text and the exception
    assert "***" in entry["SPARKD_MODEL"]


def test_name_that_only_resembles_a_key_is_kept(log: logging.Logger, journal: Journal) -> None:
    log.info("model task-gemma-27b, bearer of good news, disk-usage")
    assert journal.entry()["MESSAGE"] == "model task-gemma-27b, bearer of good news, disk-usage"


def test_without_a_journal_the_text_goes_to_stderr(
    log: logging.Logger, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.close()
    journal.path.unlink()
    log.error("nobody listens to %s", KEY)
    assert capsys.readouterr().err == "nobody listens to sk-***\n"


def test_journal_that_comes_back_is_used_again(
    log: logging.Logger, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.close()
    journal.path.unlink()
    log.error("lost")
    second = Journal(journal.path)
    log.error("found")
    assert second.entry()["MESSAGE"] == "found"
    second.close()
    assert capsys.readouterr().err == "lost\n"


def test_program_outside_of_systemd_logs_to_stderr_and_as_careful() -> None:
    program = (
        "import logging; from sparkd.adapters.journal import writer; writer.configure(environ={});"
        f"logging.getLogger('sparkd').info('key {KEY}'); logging.getLogger('httpx').info('loud')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = done.stderr.splitlines()
    assert line.endswith("INFO key sk-***")


def test_journal_that_is_not_read_holds_nobody_up_and_says_afterwards_what_it_missed(
    journal: Journal, log: logging.Logger
) -> None:
    def write() -> None:
        for number in range(5000):
            log.info("entry %d", number)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(60)
    assert not writer.is_alive(), "it waits for a reader"
    kept = journal.waiting()
    assert 0 < len(kept) < 5000
    log.info("read again")
    told, last = journal.entry(), journal.entry()
    assert told["MESSAGE"] == f"{5000 - len(kept)} entries were lost: journald did not read"
    assert (told["PRIORITY"], last["MESSAGE"]) == ("4", "read again")
    log.info("nothing more is said of it")
    assert journal.entry()["MESSAGE"] == "nothing more is said of it"


def test_journal_that_is_only_slow_misses_nothing(journal: Journal, log: logging.Logger) -> None:
    count = 1000
    read: list[str] = []

    def read_slowly() -> None:
        for _ in range(count):
            read.append(journal.entry()["MESSAGE"])
            time.sleep(0.001)

    reader = threading.Thread(target=read_slowly, daemon=True)
    reader.start()
    for number in range(count):
        log.info("entry %d", number)
    reader.join(60)
    assert read == [f"entry {number}" for number in range(count)]
