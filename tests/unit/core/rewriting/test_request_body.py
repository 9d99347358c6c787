# SPDX-License-Identifier: Apache-2.0
"""Large bodies: read without their long strings, within bounds, and without stopping the loop."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.catalog.lookup import Meant
from sparkd.core.errors import BodyTooComplex, RequestError
from sparkd.core.json import skeleton
from sparkd.core.json.spliced import Spliced
from sparkd.core.model import Dialect, ModelSpec, Rewrite
from sparkd.core.rewriting.request_body import LARGE_BYTES, Prepared, parse_body, prepare
from sparkd.gateway.body_worker import BodyWorker

NONCE = "00ff" * 8
PICTURE = "data:image/png;base64," + "QUJD" * 50_000
TEXT = 'Grüße "aus" C:\\\n\t€😀 ' * 3_000


def model(*rules: Rewrite) -> ModelSpec:
    return ModelSpec(model_id="m", image="i", rewrite=rules, max_model_len=8192)


def prepared(raw: bytes, *rules: Rewrite) -> Prepared:
    return prepare(raw, NONCE, lambda _fields: Meant(model(*rules), "m"), Dialect.CHAT)


def sent(raw: bytes, *rules: Rewrite) -> bytes:
    return bytes(prepared(raw, *rules).payload)


def large(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def test_large_body_that_needs_nothing_keeps_every_byte() -> None:
    raw = large(messages=[{"role": "user", "content": [PICTURE, TEXT]}], seed=1.0).replace(
        b"1.0", b"1.00 "
    )
    assert sent(raw) == sent(raw, Rewrite.STRIP_TOOLS) == raw


@pytest.mark.parametrize("ascii_only", [True, False])
def test_long_strings_of_a_rewritten_body_keep_every_byte(ascii_only: bool) -> None:
    parts = [{"type": "text", "text": TEXT}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    messages = [{"role": "user", "content": parts}, {"role": "user", "content": TEXT}]
    raw = json.dumps({"messages": messages, "x": TEXT}, ensure_ascii=ascii_only).encode()
    found = sent(raw, Rewrite.ROLE_ALTERNATION, Rewrite.CAP_TOKENS)
    (message,) = json.loads(found)["messages"]
    assert message["content"] == [*parts, {"type": "text", "text": TEXT}]
    assert found.count(json.dumps(TEXT, ensure_ascii=ascii_only).encode()) == 3
    assert b"sparkd-string" not in found


def test_two_long_texts_become_one() -> None:
    raw = large(messages=[{"role": "user", "content": TEXT}] * 2)
    (message,) = json.loads(sent(raw, Rewrite.ROLE_ALTERNATION))["messages"]
    assert message["content"] == f"{TEXT}\n\n{TEXT}"


def test_client_that_writes_a_mark_gets_no_string_for_it() -> None:
    mark = f"sparkd-string-{'0' * 32}-11-40-"
    raw = large(messages=[{"role": "system", "content": mark}, {"role": "user", "content": TEXT}])
    (message,) = json.loads(sent(raw, Rewrite.ROLE_ALTERNATION))["messages"]
    assert mark in message["content"]


@pytest.mark.parametrize(
    "text",
    [b'{"model":"a","x":"%b","\\u006dodel":"b"}', b'{"\\u006dodel":"a","x":"%b","model":"b"}',
     b'{"x":"%b","model":{"model":"a"},"model":"b","y":{"model":"c"}}'],
)  # fmt: skip
def test_last_of_two_models_holds_in_large_bodies_too(text: bytes) -> None:
    names: list[object] = []

    def choose(fields: dict[str, Any]) -> Meant:
        names.append(fields["model"])
        return Meant(model(), "m")

    prepare(text % (b"x" * LARGE_BYTES), NONCE, choose, None)
    assert names == ["b"]


def test_name_of_a_model_that_is_a_long_string_is_shown_as_it_begins() -> None:
    names: list[str] = []

    def choose(fields: dict[str, Any]) -> Meant:
        names.append(fields["model"])
        return Meant(model(), "m")

    prepare(large(model="n" * LARGE_BYTES), NONCE, choose, None)
    assert names == ["n" * 200]


@pytest.mark.parametrize(
    "wrong",
    [b"\n", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\x", b"\\u12", b"\\u12g4", b"\xc3", b'"'],
)
@pytest.mark.parametrize("before", [0, 1022, LARGE_BYTES - 3, LARGE_BYTES - 1])
def test_wrong_character_of_a_long_string_is_refused(wrong: bytes, before: int) -> None:
    text = b"a" * before + wrong + b"z" * (2 * LARGE_BYTES)
    raw = b'{"model":"m","x":"' + text + b'"}'
    with pytest.raises(RequestError, match="not JSON") as caught:
        sent(raw)
    assert caught.value.code == "invalid_json"
    assert len(str(caught.value)) < 200


@given(st.text(st.characters(exclude_categories=[]), min_size=1), st.integers(65_000, 66_000))
def test_any_string_is_cut_and_put_back(text: str, size: int) -> None:
    raw = json.dumps({"a": text * (size // len(text) + 1), "b": 1.5}).encode()
    cut = skeleton.cut(raw, NONCE)
    assert len(cut.text) < 200
    assert bytes(cut.restored(cut.text)) == raw
    written = json.dumps(json.loads(raw), ensure_ascii=False).encode("utf-8", "backslashreplace")
    cut = skeleton.cut(written, NONCE)
    assert bytes(cut.restored(cut.text)) == written


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":[' + b"[]," * 10_000_000 + b"0]}",
        b'{"a":[' + b"1," * 600_000 + b"0]}",
        b'{"a":[' + b'"b",' * 600_000 + b"0]}",
        b'{"a":[' + b'{"b":1},' * 120_000 + b"0]}",
        b'{"a":["' + b'","'.join([b"c" * 900] * 20_000) + b'"]}',
        b'{"a":' + b" " * (9 << 20) + b"1}",
    ],
    ids=["lists", "numbers", "strings", "objects", "short strings", "space"],
)
def test_body_that_costs_too_much_memory_is_refused_before_it_is_parsed(raw: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooComplex) as caught:
            sent(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert (caught.value.http_status, caught.value.code) == (413, "body_too_complex")


def test_pictures_of_a_large_body_are_neither_parsed_nor_copied() -> None:
    raw = large(messages=[{"role": "user", "content": ["A" * (20 << 20)]}, {"role": "user"}])
    tracemalloc.start()
    try:
        payload = prepared(raw, Rewrite.ROLE_ALTERNATION).payload
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert len(payload) > 20 << 20


def test_deep_nesting_is_refused_in_bodies_of_any_size() -> None:
    for size in (0, LARGE_BYTES):
        for opened in (b"[", b'{"a":'):
            raw = b'{"x":"' + b"y" * size + b'","model":' + opened * 50_000 + b"1}"
            with pytest.raises(RequestError, match=r"nested too deeply|not JSON"):
                sent(raw)


def test_list_is_read_alike_with_and_without_pauses() -> None:
    for text in (
        "[]",
        "[ ]",
        "[1 , [2],{}]",
        "[1,]",
        "[,]",
        "[1",
        "[1 2]",
        "[",
        '["a"',
        "[]]",
        "[1,2,3]",
        "[1,,2]",
        "[1, 2,]",
        '[ 1 ,-2.50,1e400 , 3,"a",4,5]',
        "[1,2 3,4]",
        "[01,2]",
        "[" + "12, " * 5000 + "7]",
        '[1,"a",2,[3,4],5,6',
        "[+1,2]",
        "[1,2",
    ):
        raw = f'{{"a": {text}}}'.encode()
        found: list[object] = []
        for yielding in (False, True):
            try:
                found.append(parse_body(raw, yielding=yielding))
            except RequestError as error:
                found.append(error.code)
        assert found[0] == found[1]
        assert repr(found[0]) == repr(found[1])


@given(st.lists(st.binary(max_size=5)), st.integers(-3, 20), st.integers(-3, 20))
def test_spliced_pieces_are_like_bytes(pieces: list[bytes], begin: int, end: int) -> None:
    whole, spliced = b"".join(pieces), Spliced(pieces)
    assert len(spliced) == len(whole)
    assert bytes(spliced) == whole
    assert bytes(spliced[begin:end]) == whole[begin:end]


def test_large_body_does_not_stop_the_event_loop() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "A" * (15 << 20)}}] * 2
    pictures = large(messages=[{"role": "user", "content": parts}, {"role": "user"}])
    many = large(messages=[{"role": "user", "content": "x"}] * 40_000)

    async def longest_block_s(raw: bytes) -> float:
        body_worker, worst_s = BodyWorker(), 0.0

        def choose(_fields: dict[str, Any]) -> Meant:
            return Meant(model(Rewrite.ROLE_ALTERNATION), "m")

        work = asyncio.create_task(
            body_worker.run(len(raw), prepare, raw, NONCE, choose, Dialect.CHAT)
        )
        while not work.done():
            before_s = time.perf_counter()
            await asyncio.sleep(0)
            worst_s = max(worst_s, time.perf_counter() - before_s)
        await work
        return worst_s

    for raw in (pictures, many):
        # Other programs of the machine may take the processor in one try, not in all.
        assert min(asyncio.run(longest_block_s(raw)) for _ in range(4)) < 0.1
