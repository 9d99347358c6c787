# SPDX-License-Identifier: Apache-2.0
"""Forms: what is read of them is what any careful reader reads, and the rest keeps its bytes."""

from __future__ import annotations

import contextlib
import tracemalloc

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.errors import RequestError
from sparkd.core.http.multipart import Form

KIND = "multipart/form-data; boundary=b"
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\xff\r\n'
MODEL = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
END = b"--b--\r\n"


def test_field_is_found_wherever_it_stands() -> None:
    for raw in (FILE + MODEL + END, MODEL + FILE + END):
        assert Form(raw, KIND).text("model") == "whisper"
    assert Form(FILE + END, KIND).text("model") is None


def test_form_of_the_wanted_model_keeps_every_byte() -> None:
    raw = FILE + MODEL + END + b"epilogue"
    assert Form(raw, KIND).with_text("model", "whisper") is raw


def test_other_model_is_put_in_place_and_all_around_it_stays() -> None:
    raw = FILE + MODEL + END
    put = bytes(Form(raw, KIND).with_text("model", "org/w"))
    assert put == raw.replace(b"whisper", b"org/w")
    added = bytes(Form(FILE + END, KIND).with_text("model", "w"))
    assert added.endswith(FILE + END)
    assert Form(added, KIND).text("model") == "w"


@given(st.binary(max_size=200), st.text(st.characters(codec="ascii"), max_size=20))
def test_forms_of_a_client_library_are_read_as_it_means_them(content: bytes, name: str) -> None:
    request = httpx.Request(
        "POST", "http://x", data={"model": "m", "stream": "true"}, files={"file": (name, content)}
    )
    form = Form(request.read(), request.headers["content-type"])
    assert (form.text("model"), form.text("stream")) == ("m", "true")


def test_name_inside_of_the_name_of_a_file_is_no_name() -> None:
    raw = FILE.replace(b"a.wav", b"; name=model; x=") + END
    assert Form(raw, KIND).text("model") is None


@pytest.mark.parametrize(
    "kind",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=",
     "multipart/mixed; boundary=b", "multipart/form-data; boundary=b; boundary=c",
     f"multipart/form-data; boundary={'b' * 71}"],
)  # fmt: skip
def test_other_kinds_of_bodies_are_refused(kind: str) -> None:
    with pytest.raises(RequestError) as caught:
        Form(FILE + END, kind)
    assert caught.value.code == "invalid_form"


@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data; boundary=b", "multipart/form-data; boundary=b;",
     "multipart/form-data ; boundary=b ; ",
     'multipart/form-data; boundary="b"',
     "Multipart/Form-Data;charset=utf-8;Boundary=b"],
)  # fmt: skip
def test_boundary_is_found_however_it_is_written(kind: str) -> None:
    assert Form(MODEL + END, kind).text("model") == "whisper"


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"--b", b"--b\r\n", b"x" + FILE + END, b"\n" + FILE + END, FILE, FILE[:-2] + END),
        FILE.replace(b'name="file"', b"x=1") + END,
        FILE.replace(b"form-data", b"attachment") + END,
        FILE.replace(b'name="file"', b'name="file"; name="model"') + END,
        FILE.replace(b"\x00\xff\r\n", b"") + END,
        b"--b" + MODEL * 2,
        MODEL * 300 + END,
    ],
)
def test_what_is_no_form_to_every_reader_is_refused_without_its_content(raw: bytes) -> None:
    with pytest.raises(RequestError, match="not a form") as caught:
        Form(raw, KIND)
    assert "whisper" not in str(caught.value)


def test_field_that_stands_twice_is_refused() -> None:
    with pytest.raises(RequestError, match="'model' stands there 2 times"):
        Form(MODEL + MODEL + END, KIND).text("model")


@given(st.binary())
def test_any_bytes_are_a_form_or_refused(raw: bytes) -> None:
    with contextlib.suppress(RequestError):
        Form(b"--b\r\n" + raw, KIND).text("model")


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n" + FILE + MODEL + END,
        b"a preamble\r\nof lines\r\n" + FILE + MODEL + END,
        (FILE + MODEL + END).replace(b"--b\r\n", b"--b \t \r\n"),
        FILE + MODEL + b"--b-- \t\r\nan epilogue\r\n--b\r\n",
        FILE + MODEL + b"--b--",
        FILE + MODEL + b"--b--  ",
    ],
)
def test_body_that_the_grammar_of_mime_allows_is_a_form(raw: bytes) -> None:
    form = Form(raw, KIND)
    assert form.text("model") == "whisper"
    for value in ("whisper", "org/w"):
        sent = bytes(form.with_text("model", value))
        assert sent.startswith(FILE + MODEL.replace(b"whisper", value.encode()) + b"--b--")


@pytest.mark.parametrize(
    "raw",
    [
        b"words --b\r\n" + FILE + END,
        (FILE + END).replace(b"--b\r\n", b"--b x\r\n"),
        (FILE + END).replace(b"--b\r\n", b"--b" + b" " * 10_000 + b"\r\n"),
        FILE + MODEL + b"--b--x\r\n",
        FILE.replace(b"\x00", b"\r\n--bx") + END,
        MODEL.replace(b"whisper", b"w" * 2_000) + END,
    ],
)
def test_body_that_readers_take_for_different_forms_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError, match="not a form"):
        Form(raw, KIND).with_text("model", "m")


def test_file_of_a_changed_form_is_not_copied() -> None:
    raw = FILE.replace(b"\x00", bytes(3 << 20)) + MODEL + END
    tracemalloc.start()
    try:
        sent = Form(raw, KIND).with_text("model", "org/w")
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()
    assert bytes(sent) == raw.replace(b"whisper", b"org/w")
