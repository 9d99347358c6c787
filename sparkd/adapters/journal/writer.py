# SPDX-License-Identifier: Apache-2.0
"""Logging into journald with fields (its native protocol), or to stderr where it is not there.

Modules log through `logging` as usual; `fields(...)` makes the `extra` that becomes journal
fields. No prompt, answer or key ever gets here: callers log metadata only, and `Redact` removes
what looks like a key as the last line of defence.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Mapping

from sparkd.core.telemetry.events import EventKind

_SOCKET = "/run/systemd/journal/socket"
_KEY = re.compile(r"\b(sk-|bearer )[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}
NOTICE = 25
"""Between INFO and WARNING: the state of a model changed (syslog's notice)."""


def fields(event: EventKind, **values: object) -> dict[str, object]:
    """The `extra` of a log call: `model="x"` becomes SPARKD_MODEL=x; None values are left out."""
    named = {f"SPARKD_{name.upper()}": str(v) for name, v in values.items() if v is not None}
    return {
        "journal": {"MESSAGE_ID": event.message_id, "SPARKD_EVENT": event.label, **named},
    }


class Redact(logging.Filter):
    """Replaces what looks like a key in the text of a record, its traceback and its fields."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _redacted(record.getMessage()), ()
        if record.exc_info:
            # The formatter takes this text instead of making its own.
            record.exc_text = _redacted(logging.Formatter().formatException(record.exc_info))
        journal = getattr(record, "journal", {})
        record.journal = {name: _redacted(str(value)) for name, value in journal.items()}
        return True


def _redacted(text: str) -> str:
    lowered = text.lower()
    if "sk-" not in lowered and "bearer " not in lowered:
        return text  # Nearly always, and the expression takes ten times as long to say so.
    return _KEY.sub(lambda match: match[1] + "***", text)


_PATIENCE = struct.pack("ll", 1, 0)
"""How long a full journald is waited for, a `struct timeval` (socket(7), SO_SNDTIMEO)."""


class JournalHandler(logging.Handler):
    """Sends records to journald; each becomes one entry with MESSAGE, PRIORITY and its fields.

    A journald that is behind is waited for, once and for a moment: it has room for some hundred
    entries, in a container for ten, and a crowd that leaves at once writes more. One that does not
    read delays no request: entries without room are counted, and the count is the next thing that
    it is told.
    """

    def __init__(self, address: str = _SOCKET) -> None:
        super().__init__()
        self._address = address
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(_datagram(record, self.format(record)))
        except OSError:
            # journald is restarting or gone: stderr is what systemd connected to it.
            print(self.format(record), file=sys.stderr)

    def note(
        self, module: str, event: EventKind, message: str, values: Mapping[str, object]
    ) -> bool:
        """Write one entry as `note` says; whether that could be done in the short way."""
        named = [f"SPARKD_{n.upper()}={v}\n" for n, v in values.items() if v is not None]
        text = _redacted(f"MESSAGE={message}\n{_heading(module, event)}{''.join(named)}")
        if text.count("\n") != _HEADING_LINES + 1 + len(named):
            return False  # A value of several lines is written in another form.
        try:
            self._send(text.encode(errors="replace"))
        except OSError:
            return False
        return True

    def _send(self, datagram: bytes) -> None:
        try:
            if self._lost:
                said = f"MESSAGE={self._lost} entries were lost: journald did not read\n{_LOST}"
                self._put(said.encode())
                self._lost = 0
            self._put(datagram)
        except BlockingIOError:
            self._lost += 1

    def _put(self, datagram: bytes) -> None:
        flags = socket.MSG_DONTWAIT if self._lost else 0
        try:
            self._socket.send(datagram, flags)
        except BlockingIOError:
            raise
        except OSError:
            # Not connected yet, or to a socket that was replaced since.
            self._socket.connect(self._address)
            self._socket.send(datagram, flags)

    def close(self) -> None:
        self._socket.close()
        super().close()


_HEADING_LINES = 5
_LOST = f"PRIORITY={_PRIORITY[logging.WARNING]}\nSYSLOG_IDENTIFIER=sparkd\nCODE_MODULE={__name__}\n"


@functools.cache
def _heading(module: str, event: EventKind) -> str:
    """What is the same in every entry that `note` writes of an event."""
    return (
        f"PRIORITY={_PRIORITY[logging.INFO]}\nSYSLOG_IDENTIFIER=sparkd\nCODE_MODULE={module}\n"
        f"MESSAGE_ID={event.message_id}\nSPARKD_EVENT={event.label}\n"
    )


_direct: JournalHandler | None = None


def note(module: str, event: EventKind, message: str, **values: object) -> None:
    """As `log.info(message, extra=fields(event, **values))`, at a fifth of its cost.

    For what is written with every request; it passes by levels, filters and other handlers.
    """
    if _direct is None or not _direct.note(module, event, message, values):
        logging.getLogger(module).info("%s", message, extra=fields(event, **values))


def _datagram(record: logging.LogRecord, message: str) -> bytes:
    entry: dict[str, object] = {
        "MESSAGE": message,
        "PRIORITY": _priority(record.levelno),
        "SYSLOG_IDENTIFIER": "sparkd",
        "CODE_MODULE": record.name,
    }
    entry.update(getattr(record, "journal", {}))
    return b"".join(_field(name, str(value)) for name, value in entry.items())


def _field(name: str, value: str) -> bytes:
    raw = value.encode(errors="replace")
    if b"\n" not in raw:
        return b"%s=%s\n" % (name.encode(), raw)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(raw)), raw)


def _priority(level: int) -> int:
    if level == NOTICE:
        return 5
    return _PRIORITY.get(level, 7 if level < logging.INFO else 3)


def configure(
    *,
    level: int = logging.INFO,
    environ: Mapping[str, str] = os.environ,
    journal_only: bool = False,
) -> None:
    """Send all logging of this process to journald if systemd started it, else to stderr.

    With `journal_only` the log goes to journald or nowhere: a command prints what its user must
    know, and the journal has that it started or stopped a model.
    """
    global _direct  # noqa: PLW0603 (as the handlers of logging are: one set a process)
    handler: logging.Handler
    if (journal_only or "JOURNAL_STREAM" in environ) and os.path.exists(_SOCKET):
        handler = _direct = JournalHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
    elif journal_only:
        handler, _direct = logging.NullHandler(), None
    else:
        handler, _direct = logging.StreamHandler(), None
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(Redact())
    logging.addLevelName(NOTICE, "NOTICE")
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Their request lines say less than ours, and some carry URLs.
    for chatty in ("httpx", "httpcore", "urllib3", "podman", "sanic.root", "sanic.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def set_level(level: int) -> None:
    """From now on, log what is at this level or above it."""
    logging.getLogger().setLevel(level)
    log = logging.getLogger(__name__)
    log.log(NOTICE, "the log level is %s now", logging.getLevelName(level).lower())
