# SPDX-License-Identifier: Apache-2.0
"""What holds for any bytes whatever, one function for each thing that reads what strangers write.

A function takes bytes and returns, or fails: by an assertion, or by an exception that its subject
does not promise. Nothing here knows who makes the bytes. Imports no test tool, since it runs in an
environment that has none.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httptools

from sparkd.adapters.files.key_files import secrets_of
from sparkd.core import names
from sparkd.core.access import api_keys
from sparkd.core.config.load import Source, SourceKind, parse
from sparkd.core.container.spec import container_spec
from sparkd.core.engine import (
    error_translation,
    load_phase,
    metrics_page,
    response_filter,
    step_counters,
)
from sparkd.core.errors import BodyTooComplex, Misconfigured, RequestError, SparkdError
from sparkd.core.http import keep_alive, routing, sse
from sparkd.core.http.multipart import Form
from sparkd.core.http.paths import canonical_path
from sparkd.core.http.request_parser import (
    ChunkedBody,
    Malformed,
    RequestHead,
    head_end,
    parse_head,
)
from sparkd.core.http.response_parser import AnswerReader
from sparkd.core.json import lossless
from sparkd.core.json import skeleton as bones
from sparkd.core.model import Config, Dialect, ModelSpec, Rewrite
from sparkd.core.rewriting import request_body as bodies
from sparkd.core.rewriting.rules import rewrite
from sparkd.core.telemetry import events, traffic
from sparkd.gateway.render import Shape, error_body

from .clear import assert_clear
from .outside import arguments, cdi_file, hub_listing, hub_refusal

Check = Callable[[bytes], None]

LAYOUT: Final = names.Layout()
NAME_MAX = 255
SUN_PATH_BYTES = 107


def pieces(data: bytes) -> Iterator[bytes]:
    """The bytes cut somewhere, in a way that depends on nothing but them."""
    at, step = 0, 1
    while at < len(data):
        step = 1 + (step * 31 + data[at]) % 7
        yield data[at : at + step]
        at += step


# --- what the owner of the host writes ---


def config(data: bytes) -> None:
    """Any text is a configuration: each model is served, with a container, or broken with a why."""
    text = data.decode(errors="replace")
    for sources in (
        [Source(kind=SourceKind.SETTINGS, name="sparkd.yaml", text=text)],
        [Source(kind=SourceKind.MODELS, name="m.yaml", text=text)],
    ):
        read = parse(sources)
        assert not read.models.keys() & read.broken.keys()
        for problem in read.problems:
            assert_clear(problem)
        for model_id, spec in read.models.items():
            assert names.check_model_id(model_id) == spec.model_id
            container_spec(spec, LAYOUT, port=8000)
        for alias, model_id in read.aliases.items():
            assert routing.lookup(read, alias).model_id == model_id


def keys(data: bytes) -> None:
    """Any text is a list of keys or is refused, and what was read can be written and read again."""
    text = data.decode(errors="replace")
    try:
        found = api_keys.parse(text, "keys.json")
    except Misconfigured as error:
        assert_clear(error.message)
    else:
        assert api_keys.parse(api_keys.write(found), "keys.json") == found
        for key in found:
            api_keys.parse_time(key.expires_at or "2027-01-31")
    with contextlib.suppress(Misconfigured):
        for secret in secrets_of(text, Path("api-key")):
            f"Bearer {secret}".encode("ascii")


# --- what clients send ---


def _spec(*rules: Rewrite) -> ModelSpec:
    listed = ", ".join(rules)
    text = f"models: {{m: {{image: localhost/x, max_model_len: 4096, rewrite: [{listed}]}}}}"
    read = parse([Source(kind=SourceKind.MODELS, name="m.yaml", text=text)])
    assert not read.problems
    return read.models["m"]


_UNLIKE = (Rewrite.STRIP_TOOLS, Rewrite.FORCE_TOOLS)
SPECS: Final = tuple(
    _spec(*(rule for rule in Rewrite if rule not in without))
    for without in zip(_UNLIKE, (Rewrite.CAP_TOKENS, Rewrite.CAP_TOKENS_BY_ESTIMATE), strict=True)
)


def rewriting(data: bytes) -> None:
    """A body is rewritten to JSON for the engine or refused, and never changed under its owner."""
    body = _body(data)
    if body is None:
        return
    before = copy.deepcopy(body)
    for spec in SPECS:
        for dialect in Dialect:
            try:
                done = rewrite(spec, dialect, body)
                out = bodies.upstream_body(data, body, "m", done)
            except SparkdError as error:
                assert_clear(error.message)
            else:
                assert bodies.parse_body(out)["model"] == "m"
            assert body == before


def _body(data: bytes) -> dict[str, Any] | None:
    try:
        return bodies.parse_body(data)
    except SparkdError as error:
        assert_clear(error.message)
        return None


def json_body(data: bytes) -> None:
    """A body is read as the json module reads it, and what was not changed leaves as it came."""
    body, expected = _body(data), _json(data)
    assert (body is None) == (not isinstance(expected, dict))
    if body is not None:
        assert body == expected
        assert bodies.parse_body(lossless.write(body, body)) == body
        assert bodies.parse_body(lossless.write(dict(body))) == body


def skeleton(data: bytes) -> None:
    """A body without its long strings is JSON if the body is, means the same, and is put back.

    The first byte says how often the longest string is repeated, so that there are long strings.
    """
    times, raw = data[:1], data[1:]
    longest = max(_STRINGS.findall(raw), key=len, default=b"")
    if longest and times:
        raw = raw.replace(longest, longest * (1 + times[0] * bones.LONG_BYTES // 64))
    expected = _body(raw)
    try:
        cut = bones.cut(raw, "0123abcd")
        found = bodies.parse_body(cut.text, yielding=True)
    except BodyTooComplex:
        return
    except (ValueError, RequestError):
        assert expected is None
        return
    assert expected is not None
    assert bytes(cut.restored(cut.text)) == raw
    # Of two equal long keys the last holds, and their marks differ: the engine reads what came.
    assert bodies.parse_body(bytes(cut.restored(lossless.write(found)))) == expected
    named, streams = found.get("model"), expected.get("stream")
    if not isinstance(named, str) or cut.beginning(named) == named:
        assert named == expected.get("model")
    assert found.get("stream") == streams or isinstance(streams, str)


_STRINGS: Final = re.compile(rb'(?<=")(?:[^"\\]|\\.)+(?=")')


def _json(data: bytes) -> object:
    """As the standard library reads it, without what it lets pass that is no JSON."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return None


CONFIG: Final = Config(models={"m": _spec()}, aliases={"a": "m"})


def route(data: bytes) -> None:
    """Path and body name a listed operation of a configured model, or are refused."""
    path, _, body = data.partition(b"\n")
    try:
        found = routing.route(canonical_path("/v1/" + path.decode("latin-1")))
        spec = routing.lookup(CONFIG, routing.model_of(found, bodies.parse_body(body)))
    except SparkdError as error:
        assert_clear(error.message)
    else:
        assert spec is CONFIG.models["m"]
        assert found.operation is routing.OPERATIONS[found.name]


def form(data: bytes) -> None:
    """A form is refused, or its model can be named anew and is read again as that."""
    kind, _, raw = data.partition(b"\n")
    try:
        read = Form(raw, kind.decode("utf-8", "surrogateescape"))
        read.text("model")
    except SparkdError as error:
        assert_clear(error.message)
        return
    named = bytes(read.with_text("model", "org/name"))
    assert Form(named, kind.decode("utf-8", "surrogateescape")).text("model") == "org/name"


class _Other:
    """The first request in some bytes, as another reader understands it."""

    def __init__(self) -> None:
        self.method, self.target, self.body = b"", b"", b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.whole = self.upgrades = False
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> bool:
        """Whether it could be read at all."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.upgrades = True
        except httptools.HttpParserError:
            return self.whole
        return True

    def on_url(self, url: bytes) -> None:
        if not self.whole:
            self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.whole:
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if not self.whole:
            self.method = self._parser.get_method()

    def on_body(self, body: bytes) -> None:
        if not self.whole:
            self.body += body

    def on_message_complete(self) -> None:
        self.whole = True


def request(data: bytes) -> None:
    """A request is refused, or means to us what it means to another reader, however it is cut."""
    buffer = bytearray(data)
    try:
        end = head_end(buffer, 8192)
        head = None if end is None else parse_head(data[:end])
    except Malformed as error:
        assert_clear(str(error))
        return
    if end is None or head is None:
        return
    rest = data[end + 4 :]
    body, whole = _received(head, [rest])
    assert _received(head, list(pieces(rest))) == (body, whole)
    other = _Other()
    if not other.feed(data):
        return
    assert other.method.decode() == head.method
    if other.target.startswith((b"/", b"*")):
        assert other.target == head.target
    else:  # The absolute form, of which the path and the query count; an empty path is "/".
        assert other.target.endswith((head.target, head.target[1:]))
    ours = [(n.encode(), v.encode("utf-8", "surrogateescape")) for n, v in head.headers]
    assert other.headers[: len(ours)] == ours
    if whole and not other.upgrades:
        assert (other.body, other.whole) == (body, True)


def _received(head: RequestHead, parts: list[bytes]) -> tuple[bytes, bool]:
    """The body as far as it came, and whether it is whole; of a broken one nothing counts."""
    if head.length is not None:
        whole = b"".join(parts)
        return whole[: head.length], len(whole) >= head.length
    reader, buffer, body = ChunkedBody(), bytearray(), b""
    try:
        for part in parts:
            buffer += part
            while not reader.whole and (data := reader.take(buffer)):
                body += data
    except Malformed:
        return b"", False
    return body, reader.whole


def model_names(data: bytes) -> None:
    """Two ids share no name of anything; each name fits and leads back to its id alone."""
    accepted: dict[str, set[str]] = {}
    for text in data.decode("utf-8", "surrogateescape").split("\n"):
        try:
            model_id = names.check_model_id(text)
        except SparkdError as error:
            assert_clear(error.message)
            continue
        name = names.Names(model_id)
        assert names.unescape(name.escaped) == model_id
        assert names.model_of_scope(name.scope) == model_id
        assert len(str(LAYOUT.endpoint_socket(name)).encode()) <= SUN_PATH_BYTES
        units = (name.scope, name.load_timer, name.idle_timer, name.idle_service)
        paths = (
            *(LAYOUT.transition_lock(name), LAYOUT.activity_lock(name)),
            *(LAYOUT.endpoint_dir(name), LAYOUT.cache_dir(name), LAYOUT.soak_file(name)),
        )
        assert all(len(one) <= NAME_MAX for one in (*units, *(path.name for path in paths)))
        for path in paths:
            assert os.path.normpath(path) == str(path)
            assert path != LAYOUT.start_lock
        accepted[model_id] = {*units, name.container, *map(str, paths)}
    for model_id, taken in accepted.items():
        for other_id, other in accepted.items():
            assert model_id == other_id or not taken & other, (model_id, other_id)


# --- what engines send and log ---


def answer(data: bytes) -> None:
    """An answer is the same however it is cut, and never whole and flawed."""
    method, body = ("HEAD", data[1:]) if data[:1] == b"H" and data[1:2] != b"T" else ("POST", data)
    whole, cut = AnswerReader(method), AnswerReader(method)
    whole.feed(body)
    for piece in pieces(body):
        cut.feed(piece)
    for reader in (whole, cut):
        reader.feed_end()
        assert not (reader.whole and reader.flaw), reader.flaw
        assert not (reader.reusable and reader.flaw), reader.flaw
    assert (whole.whole, whole.status) == (cut.whole, cut.status)
    if whole.whole:
        assert (whole.headers, whole.take()) == (cut.headers, cut.take())
    if whole.flaw is None:
        assert cut.flaw is None, cut.flaw


def stream(data: bytes) -> None:
    """Events and the mark of an end are the same however a stream is cut."""
    whole, cut = sse.Reader(), sse.Reader()
    assert whole.feed(data) == [item for piece in pieces(data) for item in cut.feed(piece)]
    once, often = sse.EndMark(), sse.EndMark()
    once.feed(data)
    for piece in pieces(data):
        often.feed(piece)
    assert once.seen == often.seen
    beats = keep_alive.KeepAlives(
        form=keep_alive.KeepAlive.CHUNK,
        operation="chat/completions",
        model_id="m",
        engine_request_id="r",
        created_at=1,
    )
    assert keep_alive.may_follow(data) in (True, False)
    (beat,) = sse.Reader().feed(beats.beat("", data))
    assert set(json.loads(beat.text)) == {"id", "object", "created", "model", "choices"}
    shown = sse.comment(data.decode(errors="replace"))
    assert shown.count(b"\n") == 2
    assert all(item.is_comment for item in sse.Reader().feed(shown))


def load_log(data: bytes) -> None:
    """A load only goes forward, whatever an engine logs."""
    order, before = list(load_phase.Phase), load_phase.LoadProgress()
    for line in data.decode(errors="replace").split("\n"):
        after = load_phase.advanced(before, line)
        assert order.index(after.phase) >= order.index(before.phase)
        assert after.percent is None or 0 <= after.percent <= 100
        before = after


def engine_metrics(data: bytes) -> None:
    """Any page is a reading of finite numbers and a text that keeps one series per line."""
    page = data.decode(errors="replace")
    steps = step_counters.parse_steps(page)
    for value in (steps.iterations, steps.running):
        assert value is None or (math.isfinite(value) and value >= 0)
    text, dropped = metrics_page.merged({"m": page, "n": page})
    assert dropped["m"] == dropped["n"] >= 0
    assert not metrics_page.merged({"m": text})[0], "a series of ours is not taken for an engine's"
    series = [line.rpartition(" ")[0] for line in text.split("\n") if not line.startswith("#")]
    assert len(series) - 1 == len(set(series) - {""})


def usage(data: bytes) -> None:
    """The end of any response has plausible counts of tokens, or none, however it is cut."""
    tokens = traffic.usage_of(data)
    assert tokens.keys() <= {"prompt", "completion"}
    assert all(0 <= count <= 1 << 24 for count in tokens.values())
    response_meter = traffic.ResponseMeter(None)
    response_meter.chunk(data, 1.0)
    assert response_meter.tokens() == traffic.usage_of(data[-4096:])


def response_head(data: bytes) -> None:
    """Of any headers only listed ones pass, each once and with a value that HTTP can carry."""
    headers = [line.partition(b":")[::2] for line in data.split(b"\n")]
    passed = response_filter.passed_headers([(name.lower(), value) for name, value in headers])
    assert len(dict(passed)) == len(passed) <= 7
    for name, value in passed:
        assert value.isascii()
        assert value.isprintable()
        assert len(value) <= 200, name
        if name in ("content-length", "retry-after"):
            assert int(value) >= 0


def event(data: bytes) -> None:
    """A line of the journal is no event, or one that can be told as JSON and as one SSE event."""
    found = events.parse(data)
    if found is not None:
        text = events.as_sse(found)
        (item,) = sse.Reader().feed(text)
        assert json.loads(item.text)["event"] == found.name
        assert text.count(b"\n") == 4


def engine_error(data: bytes) -> None:
    """Whatever an engine answers is an error that a client of any dialect can be told."""
    error = error_translation.read(400, data, anthropic=True)
    assert 0 < len(error.message) <= len(data) * 6 + 100
    for shape in Shape:
        assert json.loads(error_body(error, shape, admin=False))


TARGETS: Final[dict[str, Check]] = {
    check.__name__: check
    for check in (
        *(config, keys, rewriting, json_body, skeleton, route, form, request, model_names),
        *(answer, stream, load_log, event, engine_error, engine_metrics, usage, response_head),
        *(hub_listing, hub_refusal, cdi_file, arguments),
    )
}
