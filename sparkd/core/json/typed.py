# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses from the JSON of a file, each field checked against its declared type.

Pure. A file may come from another release, a half-broken disk or an editor. A record with a wrong
value is no record: every reader gets either the types that it declares, or None.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

from sparkd.core.numbers import MOST_KEPT, plain_float, plain_int

T = TypeVar("T")
_ITEMS_MAX = 1000
_TEXT_MAX = 1 << 16


class _WrongError(ValueError):
    """The value is not of the declared type."""


def restored(kind: type[T], found: Mapping[str, Any]) -> T | None:
    """The record of that type; None when a field is missing or wrong.

    Unknown keys are left out, so that an older sparkd reads what a newer one wrote.
    """
    hints = _hints(typing.cast(Hashable, kind))
    try:
        return kind(**{name: _value(hints[name], found[name]) for name in hints if name in found})
    except (TypeError, _WrongError):
        return None


@functools.cache
def _hints(kind: Any) -> dict[str, object]:  # noqa: ANN401
    hints = typing.get_type_hints(kind)
    return {one.name: hints[one.name] for one in dataclasses.fields(kind)}


def _value(hint: object, value: object) -> object:
    """The value as the hint has it. Raises _WrongError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(arguments[0], value)
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) > _ITEMS_MAX:
            raise _WrongError
        return tuple(_value(arguments[0], item) for item in value)
    if origin is Mapping:
        if not isinstance(value, dict) or len(value) > _ITEMS_MAX:
            raise _WrongError
        return {_text(key): _value(arguments[1], item) for key, item in value.items()}
    return _plain(hint, value)


def _plain(hint: object, value: object) -> object:
    if hint is str:
        return _text(value)
    number: float | None = None
    if hint is int:
        number = plain_int(value, least=-MOST_KEPT)
    elif hint is float:
        number = plain_float(value, least=-float(MOST_KEPT))
    elif hint is object:
        return _scalar(value)
    if number is None:
        raise _WrongError
    return number


def _scalar(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    return _plain(float if isinstance(value, float) else int, value)


def _text(value: object) -> str:
    """A text that can be written as UTF-8."""
    if not isinstance(value, str) or len(value) > _TEXT_MAX:
        raise _WrongError
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _WrongError from None
    return value
