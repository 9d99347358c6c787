# SPDX-License-Identifier: Apache-2.0
"""Bodies come back as they were written, and what is no JSON is refused."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.json.lossless import KEYS_MAX, ExactFloat, parse, write

NUMBERS = [
    *("0", "-0.0", "0.1", "1.0", "1e400", "-1e400", "1E5", "1e5", "1e+05", "1e-7", "0.10"),
    *("3.141592653589793238462643383279", "5e-324", "1e-400", "9007199254740993", "-1", "1.5"),
    *("123456789012345678901234567890", "9" * 4000),
]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Lone surrogates too: JSON can escape them.
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)


def an_object(text: str | bytes) -> dict[str, Any]:
    body = parse(text.encode() if isinstance(text, str) else text)
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:40])
@pytest.mark.parametrize("form", ['{{"x": {}, "y":1}}', '{{"x": [{{"a": {}}}], "y":1}}'])
def test_number_keeps_its_text_where_it_is_and_where_its_value_was_rebuilt(
    number: str, form: str
) -> None:
    body = an_object(form.format(number))
    compact = form.format(number).replace(" ", "")
    assert write(body).decode() == compact
    assert write({**body, "y": 2}, body).decode().replace(" ", "") == compact[:-2] + "2}"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("form", ["{}", '{{"x": {}}}', '{{"x": [[{}]]}}'])
def test_what_is_no_number_in_json_is_refused(number: str, form: str) -> None:
    with pytest.raises(ValueError, match=f"{number} is not a number of JSON"):
        parse(form.format(number).encode())


@pytest.mark.parametrize("number", ["01", "+1", ".5", "1.", "1e", "0x10", "1_000", "--1", "٣"])
def test_number_in_another_notation_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match="line 1 column"):
        parse(f'{{"x": {number}}}'.encode())


def test_number_that_python_would_write_alike_is_a_plain_float() -> None:
    body = an_object('{"a": 1.0, "b": 1.00}')
    assert type(body["a"]) is float
    assert type(body["b"]) is ExactFloat
    assert body["b"] == 1.0


def test_values_that_nobody_changed_keep_every_byte() -> None:
    text = ' {\t"a" : {"x":1.50,  "x":2, "\\u00e4":"\\/"}, "b":"\\ud83d\\ude00",\r\n"c":[ ] } '
    body = an_object(text)
    written = write({**body, "c": [1], "d": None}, body).decode()
    assert written == (
        '{"a":{"x":1.50,  "x":2, "\\u00e4":"\\/"},"b":"\\ud83d\\ude00","c":[1],"d":null}'
    )


def test_value_that_was_replaced_by_an_equal_one_is_written_anew() -> None:
    body = an_object('{"a": [1,  2]}')
    assert write({"a": [1, 2]}, body) == b'{"a":[1,2]}'


def test_value_that_moved_to_another_key_is_written_under_that_key() -> None:
    body = an_object('{"a": 1.50, "b": [ 1 ]}')
    assert write({"b": body["a"], "c": body["b"]}, body) == b'{"b":1.50,"c":[1]}'


def test_last_of_two_equal_keys_holds_with_its_text() -> None:
    body = an_object('{"a": 1.0, "b": 0, "a": 2.00}')
    assert body == {"a": 2.0, "b": 0}
    assert write(body, body) == b'{"a":2.00,"b":0}'


@pytest.mark.parametrize("text", ['"\\ud800"', '"\\udc00\\ud800"', '"a\\udfffb"'])
def test_lone_surrogate_stays_the_escape_that_it_was(text: str) -> None:
    body = an_object(f'{{"a": {text}, {text}: 1}}')
    assert write(body).decode() == f'{{"a":{text},{text}:1}}'


def test_other_characters_are_written_in_utf8() -> None:
    assert write({"ä": '€😀"\\\n\x01'}) == '{"ä":"€😀\\"\\\\\\n\\u0001"}'.encode()


def test_byte_order_mark_is_skipped() -> None:
    assert parse(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b" ", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b"{,}", b"{1:2}"),
        *(b'{"a" 1}', b'{"a":1 "b":2}', b'{"a":1}}', b'{"a":1}x', b"{'a':1}", b"{} {}", b"[1,]"),
        *(b'{"a":"\t"}', b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', '{"a":1}'.encode("utf-16")),
        *(b"\xc2\xa0{}", b"{}\x0b", b"1" * 5000, b"true false", b'{"a', b'{"\\x": 1}'),
    ],
)
def test_text_that_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse(raw)


@pytest.mark.parametrize("raw", [b"[1]", b' "a" ', b"1", b"null", b"{}", b"{ }", b' {"a":[]} '])
def test_every_kind_of_json_text_is_read(raw: bytes) -> None:
    assert parse(raw) == json.loads(raw)


@given(st.binary() | st.text().map(str.encode) | OBJECTS.map(lambda o: json.dumps(o).encode()))
def test_what_is_read_is_what_the_standard_parser_reads(raw: bytes) -> None:
    try:
        found = parse(raw)
    except ValueError:
        return
    assert found == json.loads(raw)


@given(OBJECTS)
def test_what_is_written_anew_reads_the_same(body: dict[str, Any]) -> None:
    again = an_object(write(body))
    assert json.dumps(again) == json.dumps(body)
    assert write(again) == write(body)
    assert write(again, again) == write(body)


@given(OBJECTS, st.booleans(), st.integers(0, 3))
def test_changed_object_differs_in_the_changed_value_only(
    body: dict[str, Any], ascii_only: bool, indent: int
) -> None:
    raw = json.dumps({**body, "x": 0}, ensure_ascii=ascii_only, indent=indent)
    source = an_object(raw.encode("utf-8", "backslashreplace"))
    changed = an_object(write({**source, "x": 1}, source))
    assert changed == {**body, "x": 1}


def test_object_with_absurdly_many_keys_is_left_to_the_standard_parser() -> None:
    text = json.dumps({str(number): 1.5 for number in range(KEYS_MAX + 1)})
    body = an_object(text)
    assert type(body) is dict
    assert body == json.loads(text)
    assert json.loads(write({**body, "0": 2}, body)) == {**body, "0": 2}


def test_nesting_is_no_danger() -> None:
    for deep in ("[" * 100_000, '{"a":' * 100_000, '{"a":[' * 100_000):
        with pytest.raises((ValueError, RecursionError)):
            parse(deep.encode())
    depth = sys.getrecursionlimit() // 4
    nested = f'{{"a": {"[" * depth}{"]" * depth}, "b": 1}}'
    body = an_object(nested)
    assert b"[" * depth in write({**body, "b": 2}, body)
    too_deep: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 2):
        too_deep = [too_deep]
    with pytest.raises(RecursionError):
        write({"a": too_deep})
