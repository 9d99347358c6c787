# SPDX-License-Identifier: Apache-2.0
"""The error tree: what its docstring draws is what there is, and every error reads well."""

from __future__ import annotations

import re

import pytest

from sparkd.core import errors
from sparkd.core.errors import NotFound, SparkdError, StartTimedOut

from .sources import PATHS

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
