# SPDX-License-Identifier: Apache-2.0
"""The error tree: what its docstring draws is what there is, and every error reads well."""

from __future__ import annotations

import re

import pytest

from sparkd.adapters.engine.client import ConnectFailed
from sparkd.core import errors
from sparkd.core.errors import (
    Busy,
    Disabled,
    FetchInterrupted,
    Forbidden,
    GpuHeld,
    HostError,
    InsufficientMemory,
    Misconfigured,
    NotFound,
    NotPresent,
    RequestError,
    SparkdError,
    StartCrashed,
    StartTimedOut,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UpstreamLost,
)
from tests.unit.project.sources import PATHS

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, SparkdError)
]


def test_docstring_draws_every_class_with_its_status() -> None:
    drawn = re.findall(r"─ (\w+)[\s│]+(\d{3})", errors.__doc__ or "")
    assert {name: int(status) for name, status in drawn} == {
        kind.__name__: kind.http_status for kind in CLASSES if kind is not SparkdError
    }


@pytest.mark.parametrize("kind", CLASSES)
def test_code_is_snake_case_and_no_other_class_has_it(kind: type[SparkdError]) -> None:
    assert re.fullmatch("[a-z]+(_[a-z]+)*", kind.code)
    assert [other for other in CLASSES if other.code == kind.code] == [kind]


def test_error_reads_as_one_line_with_what_to_do() -> None:
    error = NotFound("there is no model 'x'", hint="sparkctl models")
    assert str(error) == "there is no model 'x' (sparkctl models)"


def test_error_without_a_hint_is_its_message() -> None:
    assert str(SparkdError("it broke")) == "it broke"


def test_instance_may_have_a_finer_code_than_its_class() -> None:
    error = NotFound("x", code="model_not_found", param="model", retry_after_s=7)
    assert (error.code, error.http_status) == ("model_not_found", 404)
    assert (error.param, error.retry_after_s) == ("model", 7)
    assert NotFound("x").code == "not_found"
    assert StartTimedOut("x").retry_after_s is None


def test_hints_that_need_root_say_sudo() -> None:
    bare = re.compile(r'hint=f?"(?:journalctl|systemctl)[^"]*')
    found = {path.name: bare.findall(path.read_text()) for path in PATHS}
    assert {name: hints for name, hints in found.items() if hints} == {}


@pytest.mark.parametrize(
    "error",
    [
        *(RequestError("x"), Unauthorized("x"), Forbidden("x"), NotFound("x"), Disabled("x")),
        *(NotPresent("x"), Misconfigured("x"), StartCrashed("x"), StartTimedOut("x")),
        # Back-off: sparkd tries later, and a person sees the reason now.
        StartCrashed("x", retry_after_s=60),
        # The request may have ended the engine: each further try would load the model again.
        UpstreamLost("x"),
        InsufficientMemory("x", code="model_too_large"),
        HostError("x", code="cdi_unresolvable"),
    ],
)
def test_error_that_a_retry_cannot_change_is_final(error: SparkdError) -> None:
    assert error.final


@pytest.mark.parametrize(
    "error",
    [
        *(Busy("x"), TooManyRequests("x"), Unavailable("x"), GpuHeld("x"), InsufficientMemory("x")),
        *(HostError("x"), ConnectFailed("x"), FetchInterrupted("x"), SparkdError("x")),
        RequestError("x", code="body_stalled"),
    ],
)
def test_error_that_may_pass_is_not_final(error: SparkdError) -> None:
    assert not error.final


def test_status_that_asks_for_another_try_is_not_final() -> None:
    error = RequestError("the head did not come in time", code="bad_request")
    error.http_status = 408
    assert not error.final
