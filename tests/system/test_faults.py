# SPDX-License-Identifier: Apache-2.0
"""What breaks around sparkd, one row of `faults` each: what a client gets while it lasts, what the
journal says, and that when it goes everything serves again by itself, with nothing left over.

`make test` runs the quick ones, `make faults` all. docs/reliability.md has the table in words.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from _pytest.mark import ParameterSet

from .faults import FAULTS, MODEL, USER, Fault
from .hosts import Host, answer_of
from .leftovers import wait_for_nothing
from .test_lifecycle import container_id

NO_FAULT = Fault(name="", inflict="", gets=set())
_IN_VAIN_S = 12.0
"""How long something is waited for that may never come."""
_PATIENCE_S = 90.0


def rows() -> Iterator[ParameterSet]:
    for fault in FAULTS:
        marks = () if fault.quick else (pytest.mark.long,)
        yield pytest.param(fault, id=fault.name, marks=marks)


def asked(host: Host, fault: Fault) -> tuple[str, str]:
    """What a client gets: `answer`, the code of an error, `broken`, or `nothing` in time; and all
    that he was told."""
    timeout_s = _IN_VAIN_S if "nothing" in fault.gets else _PATIENCE_S
    more = {"fake": fault.fields} if fault.fields else {}
    try:
        response = host.chat(MODEL, "one", timeout_s=timeout_s, **more)
    except httpx.TimeoutException:
        return "nothing", ""
    except httpx.HTTPError:
        return "broken", ""
    if response.status_code == 200:
        return "answer", response.text
    try:
        code = response.json()["error"].get("code")
    except (ValueError, KeyError):
        code = None
    return str(code or response.status_code), response.text


def told(entries: list[dict[str, Any]], fault: Fault, got: str) -> bool:
    """Whether the journal says what the row wants, and the code of an error that a client got."""
    texts = [str(entry.get("MESSAGE")) for entry in entries]
    reasons = {str(entry.get("SPARKD_REASON")) for entry in entries}
    codes = [got] if "_" in got else []
    if got == "nothing" and not fault.tells:
        codes = ["client_gone"]
    return all(code in reasons for code in codes) and (
        not fault.tells or any(re.search(fault.tells, text) for text in texts)
    )


@pytest.fixture
def host_of(host: Host, fault: Fault) -> Iterator[Host]:
    yield host
    host.sh(USER + fault.afterwards)


@pytest.mark.parametrize("fault", rows())
def test_fault_is_told_and_everything_heals_when_it_goes(host_of: Host, fault: Fault) -> None:
    host = host_of
    first = ""
    if fault.warm:
        answer_of(host.chat(MODEL))
        first = container_id(host, MODEL)
    cursor = host.cursor()
    began_s = time.monotonic()
    try:
        host.sh(USER + fault.inflict)
        began_s = time.monotonic()
        got, text = asked(host, fault)
        took_s = time.monotonic() - began_s
    finally:
        host.sh(USER + fault.mend)
    print(f"\n{fault.name}: {got} after {took_s:.1f} s")

    healed_s = host.wait_until(
        lambda: asked(host, NO_FAULT)[0] == "answer", "it serves again by itself", timeout_s=180
    )
    entries = host.journal("SYSLOG_IDENTIFIER=sparkd", "+", "UNIT=sparkd.service", since=cursor)
    lines = [str(entry.get("MESSAGE")) for entry in entries]
    print("\n".join(f"    {line}" for line in lines))
    print(f"    healed after {healed_s:.1f} s")
    assert got in fault.gets, lines
    assert re.search(fault.says, text), text
    assert told(entries, fault, got), lines
    if fault.same:
        assert container_id(host, MODEL) == first
    host.run("sparkctl", "stop", MODEL)
    wait_for_nothing(host)
    assert host.system_unit_states()["sparkd.socket"] == "active"
