# SPDX-License-Identifier: Apache-2.0
"""A hub's refusal as an error with the right remedy, and the pause that the hub requests.

Reads a status and headers, which anyone may have written: every number is bounded, every text is
short and printable, and nothing but the returned error comes out. Opens nothing, knows no clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sparkd.core.errors import FetchFailed, FetchInterrupted
from sparkd.core.numbers import bounded_int

TOKEN_COMMAND = "sudo install -m 0640 -g sparkd /dev/stdin /etc/sparkd/hf-token"
_TOKEN_HINT = f"{TOKEN_COMMAND}, then paste the token, Enter, Ctrl-D"
_LONGEST_WAIT_S = 366 * 86400
_EPOCH_FROM_S = 1_000_000_000
"""A reset of this many seconds or more is a moment, as GitHub sends it, and no duration."""
_HEADER_CHARS = 512
_MESSAGE_CHARS = 200
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(
    r"(?:[A-Za-z]{3,9}, )?([0-9]{2})[ -]([A-Za-z]{3})[ -]([0-9]{4}|[0-9]{2}) "
    r"([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_ASCTIME = re.compile(
    r"[A-Za-z]{3} ([A-Za-z]{3}) ([ 0-9][0-9]) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([0-9]{4})"
)
_PARAMETER = re.compile(r"(?:^|[;,\s])([a-z]{1,16})=([0-9]{1,19})(?=$|[;,\s])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request to a hub, as far as an error tells of it."""

    what: str
    """The file or repository, for messages."""
    host: str
    page: str = ""
    """The address of the repository for people; empty for a file of another address."""
    with_token: bool = False


def refusal(status: int, headers: Mapping[str, str], asked: Asked, now: float) -> FetchFailed:
    """The error of an answer that sends no file; `headers` have names in lower case."""
    code, said = _said(headers)
    where = f"{asked.what}: {asked.host}"
    if code == "GatedRepo" or status == 403:
        return FetchFailed(
            f"{where} does not give access ({status}){said}",
            hint=f"accept the terms{' at ' + asked.page if asked.page else ' of the repository'} "
            f"with the account of the token; set the token: {_TOKEN_HINT}",
            code="hub_denied",
        )
    if status == 401:
        reason = "refuses the token" if asked.with_token else "wants a token"
        return FetchFailed(
            f"{where} {reason} (401), or there is no such repository{said}",
            hint=f"check the spelling of repo; for a private or gated repository: {_TOKEN_HINT}",
            code="hub_denied",
        )
    if status in (404, 410):
        part = {"RevisionNotFound": "revision", "EntryNotFound": "file"}.get(code, "repo")
        return FetchFailed(
            f"{asked.what}: not at {asked.host} ({status}){said}",
            hint=f"check the {part} of the entry against the page of the repository",
            code="hub_not_found",
        )
    if status in (408, 429) or status >= 500:
        wait_s = pause_of(headers, now)
        return FetchInterrupted(
            f"{where} answers {status}{said}{_until(wait_s, now)}",
            hint="try again later; sparkctl keeps the fetched parts",
            retry_after_s=wait_s,
        )
    return FetchFailed(
        f"{where} answers {status}{said}",
        hint="try again; if it stays so, check `hub` in /etc/sparkd/sparkd.yaml or HF_ENDPOINT",
    )


def pause_of(headers: Mapping[str, str], now: float) -> int | None:
    """Seconds until the hub takes another request, by the longest of its headers; None if untold.

    Reads Retry-After (RFC 9110, seconds or a date) and the drafts of RateLimit: `"api";r=0;t=55`,
    `limit=500, remaining=0, reset=55`, and RateLimit-Reset or X-RateLimit-Reset.
    """
    found = [
        _retry_after(_header(headers, "retry-after"), now),
        _rate_limit(_header(headers, "ratelimit")),
        _reset(headers, "ratelimit", now),
        _reset(headers, "x-ratelimit", now),
    ]
    return max((wait_s for wait_s in found if wait_s is not None), default=None)


def cleaned(text: str) -> str:
    """A text of a hub as one short line of printable characters."""
    words = "".join(one if one.isprintable() else " " for one in text[: 4 * _MESSAGE_CHARS]).split()
    line = " ".join(words)
    return line if len(line) <= _MESSAGE_CHARS else f"{line[: _MESSAGE_CHARS - 1]}…"


def _said(headers: Mapping[str, str]) -> tuple[str, str]:
    """The hub's own code, and its message as the end of ours."""
    code = _header(headers, "x-error-code")
    message = cleaned(_header(headers, "x-error-message"))
    return code, f": {message}" if message else ""


def _until(wait_s: int | None, now: float) -> str:
    if not wait_s:
        return ""
    moment = datetime.fromtimestamp(now + wait_s, UTC)
    return f"; it wants no request until {moment:%Y-%m-%d %H:%M:%S} UTC"


def _header(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name, "")[:_HEADER_CHARS].strip()


def _retry_after(text: str, now: float) -> int | None:
    seconds = bounded_int(text, most=_LONGEST_WAIT_S)
    if seconds is not None:
        return seconds
    found = _DATE.fullmatch(text)
    if found is not None:
        day, month, year, hour, minute, second = found.groups()
    elif found := _ASCTIME.fullmatch(text):
        month, day, hour, minute, second, year = found.groups()
    else:
        return None
    # A year of two digits belongs to the date of RFC 850.
    century = "20" if len(year) == 2 else ""
    try:
        numbers = (int(century + year), _MONTHS.index(month.lower()) + 1, int(day))
        moment = datetime(*numbers, int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None
    return _bounded(moment.timestamp() - now)


def _rate_limit(text: str) -> int | None:
    """The longest reset of a policy that has nothing left, or of all where none says so."""
    spent: list[int] = []
    others: list[int] = []
    # Before draft 8 the commas separate the parameters of one policy, and no `;` is there.
    for policy in text.split(",") if ";" in text else [text]:
        parameters = {
            name: bounded_int(value, most=_LONGEST_WAIT_S)
            for name, value in _PARAMETER.findall(policy)
        }
        wait_s = parameters.get("t", parameters.get("reset"))
        left = parameters.get("r", parameters.get("remaining"))
        if wait_s is not None:
            (spent if left == 0 else others).append(wait_s)
    return max(spent or others, default=None)


def _reset(headers: Mapping[str, str], prefix: str, now: float) -> int | None:
    number = bounded_int(_header(headers, f"{prefix}-reset"), most=10**12)
    if number is None:
        return None
    return _bounded(number - now if number >= _EPOCH_FROM_S else number)


def _bounded(wait_s: float) -> int:
    return int(min(max(0.0, wait_s), _LONGEST_WAIT_S))
