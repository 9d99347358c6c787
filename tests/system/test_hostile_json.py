# SPDX-License-Identifier: Apache-2.0
"""Bodies that are JSON, or nearly, and mean harm: each is answered at once, none with a 500."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable, Iterator

import httpx
import pytest

from sparkd.core.http.routing import OPERATIONS
from sparkd.core.model import Rewrite

from .hosts import SETTINGS, Host, answer_of, client

LEFT_OUT = (Rewrite.STRIP_TOOLS, Rewrite.CAP_TOKENS_BY_ESTIMATE)
"""An entry cannot have these beside their opposites."""
MODEL = "hostile"
ENTRY = f"""\
models:
  {MODEL}:
    image: localhost/sparkd-fake-vllm:latest
    weights: none
    lifecycle: normal
    gpu: all
    args: [--fake-load-seconds, 0.1, --fake-fill=false, --fake-tokens, 2]
    max_model_len: 8192
    shm_size: 64MiB
    dialects: [chat, completions, responses, messages, embeddings]
    rewrite: [{", ".join(rule for rule in Rewrite if rule not in LEFT_OUT)}]
"""
"""A model with every rule of rewriting that can be had together, so that each meets it all."""
ANSWER_S = 30.0
"""An ordinary answer takes milliseconds; machines that run tests do other things as well."""
PARTS = 7

VALUES = [
    *("null", "true", "0", "-1", "1.5", "-0", "1e400", "9" * 400, "9" * 5000, '""'),
    *('"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', "[]", "{}", "[null]", "[[]]", "[{}]"),
    *('{"a":{"b":[]}}', '[1,"x",null,{}]', '[{"role":["user"],"content":{"a":1}}]'),
    *('[{"type":"text","text":null}]', '[{"type":"function","function":null}]', '"none"'),
    '[{"type":"function","function":{"name":7,"description":[],"parameters":[]}}]',
    json.dumps("x" * 20_000),
    "[" * 900 + "]" * 900,
]
FIELDS = {
    "model": f'"{MODEL}"',
    "messages": '[{"role":"user","content":"x"}]',
    "input": '"x"',
    "prompt": '"x"',
    "system": '"x"',
    "instructions": '"x"',
    "tools": '[{"type":"function","function":{"name":"f","parameters":{}}}]',
    "tool_choice": '"auto"',
    "stream": "false",
    "stream_options": "{}",
    "max_tokens": "99999",
    "max_completion_tokens": "2",
    "max_output_tokens": "2",
    "reasoning_effort": '"high"',
    "reasoning": "{}",
    "thinking": "{}",
    "chat_template_kwargs": "{}",
    "documents": '["x"]',
    "query": '"x"',
    "text_1": '"x"',
    "text_2": '"x"',
    "dimensions": "8",
    "stop": '"x"',
}
MESSAGE = {
    "role": '"assistant"',
    "content": '"x"',
    "name": '"x"',
    "tool_call_id": '"x"',
    "tool_calls": '[{"id":"x","type":"function","function":{"name":"f","arguments":"{}"}}]',
    "reasoning_content": '"x"',
}
NOT_JSON = [
    *(b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"nul", b"{'model':1}", b'{"model":"\xed\xa0\x80"}'),
    *(b'{"model":"hostile","x":NaN}', b'{"model":"hostile"}{}', b'{"model":"hostile",}'),
    *('{"model":"hostile"}'.encode(coding) for coding in ("utf-16", "utf-32")),
    b'{"model":"hostile","messages":"' + b"\xc3\x28" * 9 + b'"}',
    b'{"model":"hostile","prompt":"line\nfeed"}',
    *(b"[" * depth + b"]" * depth for depth in (1, 1000, 100_000)),
    *(b'{"model":' * depth + b"1" + b"}" * depth for depth in (990, 100_000)),
]


def joined(fields: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


def bodies() -> Iterator[bytes]:
    """A body that is right but for one field, for each field and each wrong value."""
    for name, value in itertools.product(FIELDS, VALUES):
        yield joined({**FIELDS, name: value}).encode()
    for name, value in itertools.product(MESSAGE, VALUES):
        messages = f"[{joined({**MESSAGE, name: value})},{joined(MESSAGE)}]"
        yield joined({**FIELDS, "messages": messages, "input": messages}).encode()


@pytest.fixture(scope="module")
def hostile(trixie: Host) -> Iterator[Host]:
    trixie.configure(SETTINGS)
    with trixie.file("/etc/sparkd/models.d/hostile.yaml", ENTRY):
        trixie.run("systemctl", "restart", "sparkd.service")
        answer_of(trixie.chat(MODEL))
        yield trixie
        trixie.stop_models()


def answers(host: Host, path: str, sent: Iterable[bytes]) -> list[tuple[bytes, httpx.Response]]:
    """What each body was answered with, within `ANSWER_S`."""
    key, pending = host.key, iter(sent)
    answered: list[tuple[bytes, httpx.Response]] = []

    async def send_some(http: httpx.AsyncClient) -> None:
        for body in pending:
            async with asyncio.timeout(ANSWER_S):
                answered.append((body, await http.post(path, content=body)))

    async def send_all() -> None:
        async with client(key) as http, asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(send_some(http))

    host.loop.run(send_all(), 800)
    return answered


def assert_all_were_clear(answered: list[tuple[bytes, httpx.Response]]) -> None:
    assert answered
    for body, response in answered:
        shown = (body[:200], response.status_code, response.text[:300])
        assert response.status_code < 500, shown
        if response.status_code != 200:
            # The engine has no error but a detail for a path that it lacks.
            said = response.json()
            assert said.get("detail") or said["error"]["message"], shown


@pytest.mark.parametrize("name", OPERATIONS)
def test_wrong_value_in_any_field_is_passed_on_or_refused(hostile: Host, name: str) -> None:
    cursor = hostile.cursor()
    sent = list(bodies())
    if name != "chat/completions":
        # All rules of rewriting are for that one; of the others each has a part of its own.
        sent = sent[list(OPERATIONS).index(name) % PARTS :: PARTS]
    by_body = answers(hostile, f"/v1/{name}", sent)
    assert_all_were_clear(by_body)
    refused = {b'"model":%s,' % value.encode() for value in VALUES}
    for body, response in by_body:
        if any(wrong in body for wrong in refused):
            assert response.status_code in (400, 404), (body[:200], response.text)
    assert hostile.journal("PRIORITY=3", "SYSLOG_IDENTIFIER=sparkd", since=cursor) == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", f"/v1/{MODEL}/messages"])
def test_what_is_no_json_is_refused_with_the_place(hostile: Host, path: str) -> None:
    answered = answers(hostile, path, NOT_JSON)
    assert_all_were_clear(answered)
    accepted = [body[:80] for body, response in answered if response.status_code != 400]
    assert accepted == []


@pytest.mark.parametrize("depth", [100, 450, 700, 900, 950, 980, 995, 1000, 3000, 200_000])
def test_no_depth_of_nesting_breaks_a_request(hostile: Host, depth: int) -> None:
    nested = ["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth]
    sent = [
        joined({**FIELDS, name: value}).encode()
        for name in ("messages", "tools", "chat_template_kwargs", "unknown")
        for value in nested
    ]
    assert_all_were_clear(answers(hostile, "/v1/chat/completions", sent))


def test_of_a_key_that_stands_twice_the_last_one_holds_everywhere(hostile: Host) -> None:
    messages = FIELDS["messages"]
    twice = '{"model":"%s","model":"%s","messages":[],"messages":' + messages + "}"
    asked = [(twice % (one, other)).encode() for one, other in ((MODEL, "x"), ("x", MODEL))]
    answered = dict(answers(hostile, "/v1/chat/completions", asked))
    assert [answered[body].status_code for body in asked] == [404, 200]
    # What the engine got is what was looked at: it would have refused no messages.
    assert answered[asked[1]].json()["choices"][0]["message"]["content"].startswith("echo:")


def test_ten_thousand_keys_are_an_ordinary_body(hostile: Host) -> None:
    many = {f"key{number}": "0" for number in range(10_000)}
    sent = [joined({**FIELDS, **many}).encode()]
    ((_, response),) = answers(hostile, "/v1/chat/completions", sent)
    assert response.status_code == 200
