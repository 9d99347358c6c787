# SPDX-License-Identifier: Apache-2.0
"""Request rewriting: what existing clients expect, what is right beyond that, and what holds for
any body whatever."""

from __future__ import annotations

import copy
import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.catalog.lookup import Meant
from sparkd.core.config.load import Source, SourceKind, parse
from sparkd.core.errors import RequestError
from sparkd.core.http import routing
from sparkd.core.model import Dialect, ModelSpec, Rewrite
from sparkd.core.rewriting import request_body as bodies
from sparkd.core.rewriting import roles, thinking, tools
from sparkd.core.rewriting.rules import RULES, rewrite
from tests.unit.project.sources import ROOT

DOCUMENT = ROOT / "docs/reference/rewriting.md"
VECTORS = json.loads((ROOT / "tests/vectors/rewrite.json").read_text())
DIALECTS = {name: operation.dialect for name, operation in routing.OPERATIONS.items()}


def entry(text: str) -> ModelSpec:
    """The model of a catalog entry with these keys, in YAML's flow style."""
    keys = f"{{image: localhost/x, {text.strip('{}')}}}"
    source = Source(kind=SourceKind.MODELS, name="m.yaml", text=f"models: {{m: {keys}}}")
    config = parse([source])
    assert not config.problems
    return config.models["m"]


def model(*rules: Rewrite, **keys: Any) -> ModelSpec:
    return ModelSpec(model_id="m", image="i", rewrite=rules, **keys)


def chat(spec: ModelSpec, **body: Any) -> dict[str, Any]:
    return rewrite(spec, Dialect.CHAT, body)


def written_out(value: Any) -> Any:
    """With every `{"$repeat": [text, n]}` as the text that it stands for."""
    if isinstance(value, dict):
        if "$repeat" in value:
            text, times = value["$repeat"]
            return text * times
        return {key: written_out(member) for key, member in value.items()}
    return [written_out(one) for one in value] if isinstance(value, list) else value


# --- what is written down ---


@pytest.mark.parametrize("vector", VECTORS["expected"], ids=lambda vector: vector["name"])
def test_body_becomes_what_existing_clients_expect(vector: dict[str, Any]) -> None:
    given_body, expected = written_out(vector["input"]), written_out(vector["output"])
    spec = entry(json.dumps(VECTORS["entries"][given_body["model"]]))
    found = rewrite(spec, Dialect.CHAT, given_body)
    assert found == expected
    assert [key for key in found if key in given_body] == [
        key for key in given_body if key in found
    ]


@pytest.mark.parametrize("vector", VECTORS["corrected"], ids=lambda vector: vector["name"])
def test_body_becomes_what_is_right_where_others_were_wrong(vector: dict[str, Any]) -> None:
    given_body, expected = written_out(vector["input"]), written_out(vector["output"])
    spec = entry(json.dumps(VECTORS["entries"][given_body["model"]]))
    found = rewrite(spec, DIALECTS[vector.get("path", "chat/completions")], given_body)
    if expected == "same":
        assert found is given_body
    else:
        assert found == expected
    assert vector["wrong_before"]


def test_vectors_cover_every_rule() -> None:
    rules = {rule for keys in VECTORS["entries"].values() for rule in keys["rewrite"]}
    assert rules == set(Rewrite)
    assert {one["input"]["model"] for one in VECTORS["expected"]} == set(VECTORS["entries"])


EXAMPLE = re.compile(
    r"With `(\{.*?\})`, `POST /v1/(\S+)`:\n\n```json\n(.*?)```\n\n"
    r"(becomes\n\n```json\n(.*?)```|stays as it is\.|is refused: `(.*?)`)",
    re.DOTALL,
)
EXAMPLES = EXAMPLE.findall(DOCUMENT.read_text())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example[0]} {example[1]}")
def test_example_in_the_reference_is_true(example: tuple[str, ...]) -> None:
    keys, path, before, _, after, refusal = example
    spec, body = entry(keys), json.loads(before)
    if refusal:
        with pytest.raises(RequestError) as caught:
            rewrite(spec, DIALECTS[path], body)
        assert caught.value.message == refusal
    elif after:
        assert rewrite(spec, DIALECTS[path], body) == json.loads(after)
    else:
        assert rewrite(spec, DIALECTS[path], body) is body


def test_reference_has_an_example_of_every_rule_under_its_own_heading() -> None:
    sections = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    titles = [section.partition("\n")[0] for section in sections]
    assert titles[: len(Rewrite)] == list(Rewrite)
    for rule, section in zip(Rewrite, sections, strict=False):
        keys = [example[0] for example in EXAMPLE.findall(section)]
        assert keys
        assert all(rule in one for one in keys)
    assert DOCUMENT.read_text().count("`POST /v1/") == len(EXAMPLES)


def test_reference_says_which_requests_each_rule_touches() -> None:
    heads, *lines = re.findall(r"^\| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)[:11]
    paths = heads.split(" | ")[1:]
    for line, (rule, (dialects, _)) in zip(lines, RULES.items(), strict=True):
        name, *cells = [cell.strip() for cell in line.split("|")]
        assert name == f"[`{rule}`](#{rule})"
        touched = {DIALECTS[path] for path, cell in zip(paths, cells, strict=True) if cell}
        assert touched == dialects


def test_entry_in_the_reference_parses() -> None:
    (example,) = re.findall(r"(?s)```yaml\n(.*?)```", DOCUMENT.read_text())
    config = parse([Source(kind=SourceKind.MODELS, name="m.yaml", text=example)])
    assert not config.problems
    assert config.models["some-model"].rewrite


def test_rules_are_applied_in_the_order_of_their_names() -> None:
    assert list(RULES) == list(Rewrite)


# --- identity ---


@pytest.mark.parametrize("dialect", [*DIALECTS.values(), Dialect.RERANK, Dialect.TRANSCRIPTIONS])
def test_model_without_rules_gets_what_came(dialect: Dialect) -> None:
    body = {"messages": [{"role": "system", "content": ["a"]}], "thinking": True, "tools": [1]}
    assert rewrite(model(), dialect, body) is body


PLAIN = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
NOTHING_TO_DO: list[tuple[Rewrite, Dialect, dict[str, Any]]] = [
    (Rewrite.TEXT_CONTENT, Dialect.CHAT, {"messages": [*PLAIN, {"role": "user", "content": []}]}),
    (Rewrite.TEXT_CONTENT, Dialect.CHAT, {"messages": [{"role": "user", "content": [5]}, 7]}),
    (Rewrite.TEXT_CONTENT, Dialect.CHAT, {"messages": "a"}),
    (Rewrite.STRICT_TOOL_WORDING, Dialect.CHAT, {"messages": []}),
    (Rewrite.STRICT_TOOL_WORDING, Dialect.CHAT, {"messages": [{"role": 5}], "tools": [5, {}]}),
    (Rewrite.ROLE_ALTERNATION, Dialect.CHAT, {"messages": PLAIN}),
    (Rewrite.ROLE_ALTERNATION, Dialect.CHAT, {"messages": [*PLAIN, *PLAIN, {"role": "tool"}]}),
    (Rewrite.ROLE_ALTERNATION, Dialect.CHAT, {"messages": [{"role": "system", "content": ""}]}),
    (Rewrite.ROLE_ALTERNATION, Dialect.CHAT, {"messages": [PLAIN[0], PLAIN[0], 5]}),
    (Rewrite.ROLE_ALTERNATION, Dialect.CHAT, {"messages": [{"role": "user", "content": 5}] * 2}),
    (Rewrite.ROLE_ALTERNATION, Dialect.CHAT, {"messages": {}}),
    (Rewrite.STRIP_TOOLS, Dialect.CHAT, {"messages": PLAIN}),
    (Rewrite.FORCE_TOOLS, Dialect.CHAT, {"messages": PLAIN, "tools": []}),
    (Rewrite.FORCE_TOOLS, Dialect.CHAT, {"messages": PLAIN, "tools": {"a": 1}}),
    (Rewrite.CAP_TOKENS, Dialect.CHAT, {"max_tokens": 5, "max_completion_tokens": 5}),
    (Rewrite.CAP_TOKENS, Dialect.COMPLETIONS, {"prompt": "a", "max_tokens": None}),
    (Rewrite.CAP_TOKENS, Dialect.COMPLETIONS, {"prompt": "a", "max_tokens": -5}),
    (
        Rewrite.CAP_TOKENS,
        Dialect.RESPONSES,
        {"input": "a", "max_output_tokens": 10, "max_tokens": 9},
    ),
    (Rewrite.CAP_TOKENS, Dialect.EMBEDDINGS, {"input": "a", "max_tokens": 10**9}),
    (Rewrite.THINKING_FLAG, Dialect.CHAT, {"thinking": {"type": "enabled"}}),
    (Rewrite.BINARY_REASONING_EFFORT, Dialect.CHAT, {"reasoning_effort": " ", "reasoning": [1]}),
    (Rewrite.DEFAULT_NON_THINKING, Dialect.CHAT, {"chat_template_kwargs": {"thinking": None}}),
    (Rewrite.DEFAULT_NON_THINKING, Dialect.RESPONSES, {"reasoning": {"effort": "low"}}),
    (Rewrite.DEFAULT_NON_THINKING, Dialect.MESSAGES, {"thinking": {"type": "adaptive"}}),
]


@pytest.mark.parametrize(("rule", "dialect", "body"), NOTHING_TO_DO)
def test_body_that_needs_nothing_is_the_very_same(
    rule: Rewrite, dialect: Dialect, body: dict[str, Any]
) -> None:
    assert rewrite(model(rule, max_model_len=8192), dialect, body) is body


def test_body_that_needs_nothing_goes_upstream_byte_for_byte() -> None:
    raw = b' {"model":"m","messages":[{"role":"user","content":"\\u00e4"}],\n "seed":1.50}'
    body = bodies.parse_body(raw)
    same = rewrite(model(Rewrite.ROLE_ALTERNATION, Rewrite.STRIP_TOOLS), Dialect.CHAT, body)
    assert bodies.upstream_body(raw, body, "m", same) is raw


def test_changed_body_keeps_the_bytes_of_what_no_rule_touched() -> None:
    raw = b'{"model":"m", "messages":[ {"role":"user", "content":"\\u00e4"} ], "seed":1.50}'
    body = bodies.parse_body(raw)
    spec = model(Rewrite.CAP_TOKENS_BY_ESTIMATE, max_model_len=8192)
    sent = bodies.upstream_body(raw, body, "m", rewrite(spec, Dialect.CHAT, body))
    messages = b'[ {"role":"user", "content":"\\u00e4"} ]'
    tail = b',"seed":1.50,"max_tokens":6852,"max_completion_tokens":6852}'
    assert sent == b'{"model":"m","messages":' + messages + tail


def test_numbers_in_a_rebuilt_field_keep_their_text() -> None:
    schema = b'{"type":"object","properties":{"a":{"type":"number","minimum":1.0,"maximum":1e400}}}'
    raw = b'{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[{"function":{"name":'
    raw += b'"f","parameters":' + schema + b"}}]}"
    body = bodies.parse_body(raw)
    sent = bodies.upstream_body(
        raw, body, "m", rewrite(model(Rewrite.STRICT_TOOL_WORDING), Dialect.CHAT, body)
    )
    assert b'"minimum":1.0,"maximum":1e400' in sent


# --- rule by rule, beyond the examples ---


def test_text_content_takes_texts_in_either_notation() -> None:
    messages = [{"role": "tool", "name": "n", "content": ["a", "", {"type": "text", "text": "b"}]}]
    found = chat(model(Rewrite.TEXT_CONTENT), messages=messages)
    assert found == {"messages": [{"role": "tool", "name": "n", "content": "a\nb"}]}


def alternated(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(model(Rewrite.ROLE_ALTERNATION), messages=list(messages))[
        "messages"
    ]
    return found


def test_conversation_that_does_not_begin_with_the_user_gets_one() -> None:
    tool = {"role": "tool", "tool_call_id": "1", "content": "x"}
    assert alternated(PLAIN[1]) == [{"role": "user", "content": " "}, PLAIN[1]]
    assert alternated(tool, tool) == [{"role": "user", "content": " "}, tool, tool]


def test_system_messages_from_anywhere_come_first_and_may_hold_pictures() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    found = alternated(
        PLAIN[0],
        {"role": "system", "content": None},
        {"role": "system", "content": ["s", picture]},
        PLAIN[1],
        {"role": "developer", "content": "d"},
    )
    heading = {"type": "text", "text": f"{roles.SYSTEM_HEADING}\ns\n\nd"}
    text = {"type": "text", "text": "a"}
    assert found == [{"role": "user", "content": [heading, picture, text]}, PLAIN[1]]
    only_picture = alternated({"role": "system", "content": [picture]})
    assert only_picture == [{"role": "user", "content": [picture]}]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a", None, "a"),
        (None, "a", "a"),
        (None, None, None),
        ("", None, ""),
        (None, "", ""),
        ("", "a", "a"),
        ([], "a", "a"),
        ("a", [], "a"),
        ("a", ["b"], [{"type": "text", "text": "a\n\nb"}]),
        (
            [{"type": "text", "text": "a", "x": 1}],
            "b",
            [{"type": "text", "text": "a\n\nb", "x": 1}],
        ),
        ([{"type": "image"}], "b", [{"type": "image"}, {"type": "text", "text": "b"}]),
    ],
)
def test_contents_are_joined_without_loss(first: Any, second: Any, expected: Any) -> None:
    messages = [{"role": "user", "content": first}, {"role": "user", "content": second}]
    assert alternated(*messages) == [{"role": "user", "content": expected}]


def test_fields_of_merged_messages_are_all_kept() -> None:
    first = {"role": "assistant", "content": "a", "name": "n", "reasoning": "r", "tool_calls": None}
    second = {"role": "assistant", "name": "n", "reasoning": "s", "audio": {"id": 1}, "x": None}
    assert alternated(PLAIN[0], first, second)[1] == {
        **first,
        "reasoning": "r\n\ns",
        "tool_calls": None,
        "audio": {"id": 1},
        "x": None,
    }


@pytest.mark.parametrize(
    "fields", [({"name": "n"}, {"name": "o"}), ({"audio": {}}, {"audio": {}}), ({"x": 1}, {"x": 1})]
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_messages_that_cannot_be_one_get_a_filler_between(
    role: str, fields: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    first, second = ({"role": role, "content": "c", **more} for more in fields)
    other, text = roles.FILLERS[role]
    expected = [first, {"role": other, "content": text}, second]
    assert alternated(first, second)[-3:] == expected


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": ["x", {"type": "tool_result"}]}]},
        {"input": [5, {"type": "function_call_output", "output": "x"}]},
        {"messages": [{"role": "user", "content": "x"}], "tool_choice": "none"},
        {"messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "none"}},
    ],
)
@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.RESPONSES, Dialect.MESSAGES])
def test_tools_are_not_forced_after_a_result_or_against_a_choice(
    dialect: Dialect, body: dict[str, Any]
) -> None:
    body = {**body, "tools": [{"name": "f"}]}
    assert rewrite(model(Rewrite.FORCE_TOOLS), dialect, body) is body


@pytest.mark.parametrize("choice", [None, "", "auto"])
def test_tools_are_forced_where_the_choice_is_open(choice: object) -> None:
    body = {"input": "a", "tools": [1], "tool_choice": choice}
    found = rewrite(model(Rewrite.FORCE_TOOLS), Dialect.RESPONSES, body)
    assert found == {**body, "tool_choice": "required"}


def test_other_words_of_an_open_choice_are_kept() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    body = {"messages": PLAIN, "tools": [1], "tool_choice": choice}
    found = rewrite(model(Rewrite.FORCE_TOOLS), Dialect.MESSAGES, body)
    assert found["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}


def worded(parameters: object, **function: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {**function, "parameters": parameters}}
    found = chat(model(Rewrite.STRICT_TOOL_WORDING), tools=[tool])
    result: dict[str, Any] = found["tools"][0]["function"]
    return result


def test_schemas_are_worded_wherever_arrays_and_objects_are() -> None:
    plain, suffix = tools.PLAIN_JSON, tools.PLAIN_JSON_SUFFIX
    found = worded(
        {
            "type": ["object", "null"],
            "properties": {
                "a": {"type": "array", "description": "d", "items": {"type": "object"}},
                "b": {"type": "string", "description": "d"},
                "c": {"type": "object", "description": 5},
                "d": True,
            },
        }
    )["parameters"]
    assert found == {
        "type": ["object", "null"],
        "description": plain,
        "properties": {
            "a": {
                "type": "array",
                "description": f"d{suffix}",
                "items": {"type": "object", "description": plain},
            },
            "b": {"type": "string", "description": "d"},
            "c": {"type": "object", "description": 5},
            "d": True,
        },
    }


def test_tool_without_parameters_is_worded_by_its_name_alone() -> None:
    found = worded(None, name="question")
    assert found == {
        "name": "question",
        "parameters": None,
        "description": tools.QUESTION_SUFFIX.strip(),
    }


def test_schema_nested_beyond_reason_is_left_alone_below() -> None:
    schema: dict[str, Any] = {"type": "array"}
    for _ in range(2000):
        schema = {"type": "string", "items": schema}
    assert worded(schema)["parameters"] is schema


def test_instruction_stands_behind_the_system_messages_and_once() -> None:
    spec = model(Rewrite.STRICT_TOOL_WORDING)
    system = [{"role": "system", "content": "s"}, {"role": "developer", "content": None}]
    once = chat(spec, messages=[*system, *PLAIN])
    instruction = {"role": "system", "content": tools.INSTRUCTION}
    assert once["messages"] == [*system, instruction, *PLAIN]
    assert rewrite(spec, Dialect.CHAT, once) is once


@pytest.mark.parametrize("value", [9, 9.0, "9"])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_whole_number_in_any_notation_is_set_in_both_fields(field: str, value: object) -> None:
    found = chat(model(Rewrite.CAP_TOKENS, max_model_len=8192), messages=[], **{field: value})
    assert found == {"messages": [], "max_tokens": 9, "max_completion_tokens": 9}
    assert all(type(found[name]) is int for name in ("max_tokens", "max_completion_tokens"))


@pytest.mark.parametrize(
    ("value", "expected"), [("1e400", 8192), ("-1e400", None), ("0", None), ("1e3", 1000)]
)
def test_number_beyond_any_float_is_capped(value: str, expected: int | None) -> None:
    body = bodies.parse_body(f'{{"messages": [], "max_tokens": {value}}}'.encode())
    found = rewrite(model(Rewrite.CAP_TOKENS, max_model_len=8192), Dialect.CHAT, body)
    assert found.get("max_tokens") == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (9.5, "9.5"),
        (True, "true"),
        ("many", "'many'"),
        ("9.5", "'9.5'"),
        ("", "''"),
        ([1], "a list"),
        ({}, "an object"),
        ("x" * 500, "'xxx"),
        ("9" * 500, "'999"),
    ],
)
@pytest.mark.parametrize(
    ("dialect", "field"),
    [
        (Dialect.CHAT, "max_tokens"),
        (Dialect.CHAT, "max_completion_tokens"),
        (Dialect.COMPLETIONS, "max_tokens"),
        (Dialect.RESPONSES, "max_output_tokens"),
        (Dialect.MESSAGES, "max_tokens"),
    ],
)
def test_number_that_is_not_whole_is_refused(
    dialect: Dialect, field: str, value: object, shown: str
) -> None:
    with pytest.raises(RequestError) as caught:
        rewrite(model(Rewrite.CAP_TOKENS, max_model_len=8192), dialect, {field: value})
    assert caught.value.message.startswith(f"'{field}' is {shown}")
    assert caught.value.message.endswith(", not a whole number")
    assert len(caught.value.message) < 100
    assert caught.value.param == field


def test_buffer_of_the_entry_is_left_free() -> None:
    spec = model(Rewrite.CAP_TOKENS_BY_ESTIMATE, max_model_len=262144, context_buffer_tokens=4096)
    assert chat(spec, messages=[])["max_tokens"] == 262144 - 500 - 4096
    none = model(Rewrite.CAP_TOKENS_BY_ESTIMATE, max_model_len=8192, context_buffer_tokens=0)
    assert chat(none, messages=[])["max_tokens"] == 8192 - 500


def test_without_a_known_window_nothing_is_capped() -> None:
    body = {"messages": PLAIN, "max_tokens": 10**9}
    assert chat(model(Rewrite.CAP_TOKENS), **body) == body


def test_window_that_is_smaller_than_the_buffer_leaves_one_token() -> None:
    assert (
        chat(model(Rewrite.CAP_TOKENS_BY_ESTIMATE, max_model_len=100), messages=[])["max_tokens"]
        == 1
    )


@pytest.mark.parametrize("prompt", ["Слово и ещё слово. " * 400, "{" * 30_000, "a"])
def test_engine_decides_what_a_prompt_leaves_of_the_window(prompt: str) -> None:
    spec = model(Rewrite.CAP_TOKENS, max_model_len=8192)
    body = {"messages": [{"role": "user", "content": prompt}], "max_completion_tokens": 4000}
    assert chat(spec, **body)["max_tokens"] == 4000
    del body["max_completion_tokens"]
    assert "max_tokens" not in chat(spec, **body)


def test_estimate_counts_long_strings_of_a_large_body() -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": "abcd" * 20_000}]}).encode()
    spec = model(Rewrite.CAP_TOKENS_BY_ESTIMATE, max_model_len=65536, context_buffer_tokens=0)
    made = bodies.prepare(raw, "0f" * 16, lambda _fields: Meant(spec, spec.model_id), Dialect.CHAT)
    sent = bodies.parse_body(bytes(made.payload))
    assert sent["max_tokens"] == 65536 - 500 - 20 - 20_000


KWARGS = "chat_template_kwargs"
ALL_THINKING = model(
    Rewrite.THINKING_FLAG, Rewrite.BINARY_REASONING_EFFORT, Rewrite.DEFAULT_NON_THINKING
)


@pytest.mark.parametrize("effort", sorted(thinking.EFFORTS))
@pytest.mark.parametrize("form", ["{}", " {} ", "{}\n"])
def test_every_known_effort_turns_thinking_on_or_off(effort: str, form: str) -> None:
    for body in (
        {"reasoning_effort": form.format(effort)},
        {"reasoningEffort": form.format(effort).upper()},
        {"reasoning_effort": "", "reasoning": {"effort": effort}},
    ):
        found = chat(ALL_THINKING, **body)
        assert found == {KWARGS: dict.fromkeys(thinking.KEYS, effort != "none")}


def test_unknown_effort_is_taken_out_and_decides_nothing() -> None:
    body = {"reasoning_effort": "huge", "reasoning": {"effort": "high", "summary": "auto"}}
    found = chat(model(Rewrite.BINARY_REASONING_EFFORT), **body)
    assert found == {"reasoning": {"summary": "auto"}}


def test_keys_of_the_client_win_over_flag_and_effort() -> None:
    found = chat(ALL_THINKING, thinking=True, reasoning_effort="high", **{KWARGS: {"thinking": 0}})
    assert found == {KWARGS: {"thinking": 0, "enable_thinking": True}}
    found = chat(ALL_THINKING, thinking=True, **{KWARGS: {"enable_thinking": None, "a": 1}})
    assert found == {KWARGS: {"enable_thinking": True, "a": 1, "thinking": True}}


@pytest.mark.parametrize("kwargs", [None, 5, "x", [1], {}])
def test_kwargs_that_say_nothing_are_filled(kwargs: object) -> None:
    assert chat(ALL_THINKING, **{KWARGS: kwargs})[KWARGS] == dict.fromkeys(thinking.KEYS, False)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (Dialect.RESPONSES, {"input": "a", "reasoning": {"effort": None}}),
        (Dialect.RESPONSES, {"input": "a", "reasoning": {"summary": "auto"}}),
        (Dialect.MESSAGES, {"messages": PLAIN, "thinking": {"type": "disabled"}}),
    ],
)
def test_other_dialects_are_without_thinking_too(dialect: Dialect, body: dict[str, Any]) -> None:
    found = rewrite(model(Rewrite.DEFAULT_NON_THINKING), dialect, body)
    assert found == {**body, KWARGS: dict.fromkeys(thinking.KEYS, False)}


# --- whatever comes ---

WORDS = st.sampled_from(
    [
        *("user", "assistant", "system", "developer", "tool", "text", "image_url", "function"),
        *("auto", "none", "required", "high", "any", "tool_result", "function_call_output", ""),
        *("enabled", "disabled", "object", "array", "question", "a", "ä€😀", "\ud800", "9"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-10, 10**6) | st.floats(allow_nan=False) | WORDS
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(WORDS | st.sampled_from(["type", "role", "content"]), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.lists(
    WORDS
    | st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=5)})
    | st.fixed_dictionaries({"type": st.just("image_url")}, optional={"x": ANYTHING}),
    max_size=3,
)
CONTENTS = st.none() | st.text(max_size=5) | PARTS
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool"])},
    optional={
        "content": CONTENTS,
        "name": WORDS | ANYTHING,
        "tool_calls": st.lists(ANYTHING, max_size=2) | ANYTHING,
        "tool_call_id": WORDS,
        "reasoning": st.text(max_size=5),
    },
)
CONVERSATIONS = st.lists(MESSAGES, max_size=6)
SCHEMAS = st.recursive(
    ANYTHING,
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["array", "object", "string"])},
        optional={
            "description": WORDS,
            "items": inner,
            "properties": st.dictionaries(WORDS, inner, max_size=3),
        },
    ),
    max_leaves=6,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"function": st.fixed_dictionaries({}, optional={"name": WORDS, "parameters": SCHEMAS})}
    )
    | ANYTHING,
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "messages": CONVERSATIONS | ANYTHING,
        "tools": TOOLS | ANYTHING,
        "prompt": ANYTHING | st.lists(st.integers(0, 9), max_size=4),
        "thinking": ANYTHING,
        "reasoning": st.dictionaries(st.sampled_from(["effort", "x"]), ANYTHING) | ANYTHING,
        KWARGS: st.dictionaries(st.sampled_from([*thinking.KEYS, "x"]), ANYTHING) | ANYTHING,
        **dict.fromkeys(
            [
                *("max_tokens", "max_completion_tokens", "max_output_tokens", "functions"),
                *("tool_choice", "input", "instructions", "reasoning_effort", "reasoningEffort"),
                *("system", "parallel_tool_calls", "model"),
            ],
            ANYTHING,
        ),
    },
)
RULE_SETS = st.sets(st.sampled_from(list(Rewrite))).map(tuple)
SPECS = st.builds(
    lambda rules, window, buffer: model(*rules, max_model_len=window, context_buffer_tokens=buffer),
    RULE_SETS,
    st.none() | st.integers(1, 20_000),
    st.none() | st.integers(0, 20_000),
)


def exact(value: object) -> str:
    """A text that tells 1 from 1.0 and true."""
    return json.dumps(value)


def rewritten_or_refused(
    spec: ModelSpec, dialect: Dialect, body: dict[str, Any]
) -> dict[str, Any] | None:
    """None for a body that is rightly refused."""
    try:
        return rewrite(spec, dialect, body)
    except RequestError as error:
        refusal = error.message
    assert {Rewrite.CAP_TOKENS, Rewrite.CAP_TOKENS_BY_ESTIMATE} & set(spec.rewrite)
    assert "not a whole number" in refusal
    return None


@given(SPECS, st.sampled_from(list(Dialect)), BODIES)
def test_any_body_is_rewritten_or_refused_and_never_touched(
    spec: ModelSpec, dialect: Dialect, body: dict[str, Any]
) -> None:
    before = copy.deepcopy(body)
    once = rewritten_or_refused(spec, dialect, body)
    if once is not None:
        assert exact(rewrite(spec, dialect, once)) == exact(once)
        assert (once is body) == (exact(once) == exact(body))
    assert exact(body) == exact(before)


@given(SPECS, BODIES)
def test_what_is_sent_upstream_reads_as_what_was_made(
    spec: ModelSpec, body: dict[str, Any]
) -> None:
    raw = json.dumps(body).replace("Infinity", "1e999").encode()
    source = bodies.parse_body(raw)
    changed = rewritten_or_refused(spec, Dialect.CHAT, source)
    if changed is None:
        return
    sent = bodies.upstream_body(raw, source, "m", changed)
    assert exact(bodies.parse_body(sent)) == exact({**changed, "model": "m"})


def parts_in(messages: list[dict[str, Any]]) -> list[Any]:
    contents = [message.get("content") for message in messages]
    return [part for one in contents for part in (one if isinstance(one, list) else [one])]


def texts_in(messages: list[dict[str, Any]]) -> list[str]:
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts_in(messages)]
    return [text for text in texts if isinstance(text, str) and text]


def pictures_in(messages: list[dict[str, Any]]) -> list[Any]:
    parts = parts_in(messages)
    return [part for part in parts if isinstance(part, dict) and part["type"] == "image_url"]


@given(RULE_SETS, CONVERSATIONS)
def test_no_text_and_no_picture_of_a_conversation_is_ever_lost(
    rules: tuple[Rewrite, ...], messages: list[dict[str, Any]]
) -> None:
    after = chat(model(*rules), messages=messages)["messages"]
    remaining = texts_in(after)
    assert [text for text in texts_in(messages) if not any(text in one for one in remaining)] == []
    assert len(pictures_in(after)) == len(pictures_in(messages))


@given(RULE_SETS, CONVERSATIONS)
def test_results_of_tools_stay_as_they_are(
    rules: tuple[Rewrite, ...], messages: list[dict[str, Any]]
) -> None:
    after = chat(model(*rules), messages=messages)["messages"]
    ids = [one.get("tool_call_id") for one in messages if one["role"] == "tool"]
    assert [one.get("tool_call_id") for one in after if one["role"] == "tool"] == ids


@given(CONVERSATIONS)
def test_roles_alternate_for_any_conversation(messages: list[dict[str, Any]]) -> None:
    after = alternated(*messages)
    if after is messages or not after:
        return
    if all(one["role"] in ("system", "developer") for one in after):
        assert not any(texts_in(after))
        return
    assert after[0]["role"] == "user"
    pairs = [(one["role"], other["role"]) for one, other in pairwise(after)]
    assert ("user", "user") not in pairs
    assert ("assistant", "assistant") not in pairs
    assert not any(one["role"] in ("system", "developer") for one in after)


def test_nesting_is_no_danger_to_any_rule() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [{"a": deep}]
    spec = model(*Rewrite, max_model_len=8192)
    for dialect in Dialect:
        for field in ("messages", "tools", "input", "prompt", "reasoning", KWARGS, "tool_choice"):
            assert rewrite(spec, dialect, {field: deep})
    turns = [{"role": "user", "content": deep, "x": deep}] * 2
    assert chat(spec, messages=turns)["messages"]


def test_rebuilt_field_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(RequestError, match="nested too deeply") as caught:
        bodies.upstream_body(b"", {"model": "m", "a": deep}, "n")
    assert caught.value.code == "invalid_json"
