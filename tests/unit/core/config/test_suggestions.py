# SPDX-License-Identifier: Apache-2.0
"""Each hint, once applied, gives a value that passes the same check."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.config.kinds import Duration, Size
from sparkd.core.config.load import Source, SourceKind, parse
from sparkd.core.config.model_keys import MODEL_KEYS
from sparkd.core.config.settings_keys import SETTINGS_KEYS
from sparkd.core.config.suggestions import FOREIGN_KEYS
from sparkd.core.model import Config, Problem

SUGGESTED = re.compile(r"(?:a unit is missing|units are powers of two): (\S+)$|^write (.+)$")


def entry(*lines: str) -> Config:
    text = "models:\n  m:\n" + "".join(f"    {line}\n" for line in ("image: localhost/x", *lines))
    return parse([Source(kind=SourceKind.MODELS, name="m.yaml", text=text)])


def setting(line: str) -> Config:
    return parse([Source(kind=SourceKind.SETTINGS, name="sparkd.yaml", text=line)])


def one(config: Config) -> Problem:
    (problem,) = config.problems
    return problem


def applied(problem: Problem, key: str) -> str:
    """The line that the hint asks for."""
    found = SUGGESTED.search(problem.hint)
    assert found, problem.hint
    text = (found[1] or found[2]).partition("; it is")[0]
    return text if text.startswith(f"{key}:") else f"{key}: {text}"


@pytest.mark.parametrize(
    ("line", "better"),
    [
        ('args: "--max-model-len 8192"', "args: [--max-model-len, 8192]"),
        ("args: --a=b", "args: [--a=b]"),
        ("args: --chat-template 'a b' --x", 'args: [--chat-template, "a b", --x]'),
        ("""args: '--json {"a": [1, 2]}'""", 'args: [--json, "{a:", "[1,", "2]}"]'),
        ("args: 'a: b'", 'args: ["a:", b]'),
        ("facts: one, two", 'facts: ["one, two"]'),
        ("rewrite: strip_tools", "rewrite: [strip_tools]"),
        ("shm_size: 17179869184", "shm_size: 16GiB"),
        ("shm_size: 4", "shm_size: 4GiB"),
        ("shm_size: 8192", "shm_size: 8GiB"),
        ("shm_size: 17179869185", "shm_size: 17179869185B"),
        ("shm_size: 16g", "shm_size: 16GiB"),
        ("shm_size: 16 GB", "shm_size: 16GiB"),
        ("memory: 1.5GiB", "memory: 1536MiB"),
        ("memory: 0.5tb", "memory: 512GiB"),
        ("idle_timeout: 20", "idle_timeout: 20s"),
        ("idle_timeout: 20min", "idle_timeout: 20m"),
        ("idle_timeout: 1.5 hours", "idle_timeout: 1h30m"),
        ("idle_timeout: 1h 30 min", "idle_timeout: 1h30m"),
        ("weights: ~/models/x", "weights: {path: /FULL/PATH/models/x}"),
        ("weights: ./x", "weights: {path: /FULL/PATH/x}"),
        ("weights: /srv/a b", 'weights: {path: "/srv/a b"}'),
        ("weights: /srv/x/", "weights: {path: /srv/x}"),
        ("weights: Org/Name", "weights: {repo: Org/Name}"),
        ("weights: hf://Org/Name", "weights: {repo: Org/Name}"),
        ("weights: https://huggingface.co/Org/Name/tree/main", "weights: {repo: Org/Name}"),
        ("weights: Org/Name@v1", 'weights: {repo: Org/Name, revision: "v1"}'),
        ("weights: name", "weights: {repo: ORG/NAME} or weights: {path: /DIRECTORY}"),
    ],
)
def test_hint_of_an_entry_leads_to_an_entry_that_passes(line: str, better: str) -> None:
    problem = one(entry(line))
    key = line.partition(":")[0]
    assert applied(problem, key) == better
    assert not entry(better.partition(" or ")[0]).problems


@pytest.mark.parametrize(
    ("line", "better"),
    [
        ("memory_reserve: 4", "memory_reserve: 4GiB"),
        ("memory_floor: 2048", "memory_floor: 2GiB"),
        ("body_limit: 64MB", "body_limit: 64MiB"),
        ("body_limit: 64", "body_limit: 64MiB"),
        ("idle_exit: 90 seconds", "idle_exit: 1m30s"),
    ],
)
def test_hint_of_a_setting_leads_to_one_that_passes(line: str, better: str) -> None:
    assert applied(one(setting(line)), line.partition(":")[0]) == better
    assert not setting(better).problems


SIZES = [(name, key.kind) for name, key in SETTINGS_KEYS.items() if isinstance(key.kind, Size)]
TIMES = [(name, key.kind) for name, key in SETTINGS_KEYS.items() if isinstance(key.kind, Duration)]
LOOSE = st.builds(
    "{}{}{}".format,
    st.integers(0, 10**13) | st.decimals(0, 10**6, places=2),
    st.sampled_from(["", " "]),
    st.sampled_from(
        [
            *("", "b", "k", "KB", "m", "MB", "Mi", "g", "GB", "GiB", "T", "TB", "bytes"),
            *("s", "sec", "min", "minutes", "h", "hours", "d", "ms", "M"),
        ]
    ),
)


@given(st.sampled_from([*SIZES, *TIMES]), LOOSE)
def test_every_suggestion_of_a_size_or_a_duration_is_in_range(
    named: tuple[str, object], text: str
) -> None:
    for problem in setting(f"{named[0]}: '{text}'").problems:
        found = SUGGESTED.search(problem.hint)
        if found is not None and "range" not in problem.message:
            better = (found[1] or found[2]).removeprefix("it like ")
            assert not setting(f"{named[0]}: {better}").problems, (text, problem)


@given(st.text(max_size=40).filter(str.isprintable))
def test_every_suggestion_of_a_list_is_a_list_of_these_words(text: str) -> None:
    quoted = text.replace("'", "''")
    for problem in entry(f"facts: '{quoted}'").problems:
        assert not entry(applied(problem, "facts")).problems, problem


@given(st.text(max_size=40).filter(str.isprintable))
def test_every_suggestion_of_weights_passes(text: str) -> None:
    quoted = text.replace("'", "''")
    for problem in entry(f"weights: '{quoted}'").problems:
        better = applied(problem, "weights").partition(" or ")[0]
        assert not entry(better).problems, problem


@pytest.mark.parametrize("key", FOREIGN_KEYS)
def test_key_of_another_tool_has_a_hint_of_its_own_that_names_a_real_key(key: str) -> None:
    problem = one(entry(f"{key}: x"))
    assert problem.message == f"unknown key {key!r}"
    assert "did you mean" not in problem.hint
    named = set(re.findall(r"([a-z_]+): ", problem.hint))
    assert problem.hint.startswith("leave it out") or named & set(MODEL_KEYS)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("services: {vllm: {image: x, restart: always}}", "a Compose file"),
        ("models: {a: {cmd: x}}\nhealthCheckTimeout: 5", "llama-swap"),
        ("macros: {a: b}\nmodels: {m: {cmd: x}}", "llama-swap"),
        ("recipe_version: 1\nmodel: a/b", "sparkrun"),
        ("model_list: []", "LiteLLM"),
    ],
)
def test_file_of_another_tool_is_one_problem_that_says_what_it_is(text: str, what: str) -> None:
    path = "/etc/sparkd/models.d/x.yaml"
    config = parse([Source(kind=SourceKind.MODELS, name=path, text=text)])
    problem = one(config)
    assert what in problem.message
    assert f"sudo mv {path} {path}.old" in problem.hint
    assert not config.models
    assert not config.broken
