# SPDX-License-Identifier: Apache-2.0
"""Options of an entry mean to sparkd what they mean to vLLM's parser."""

from __future__ import annotations

import argparse

import pytest

from sparkd.core.config.load import Source, SourceKind, parse
from sparkd.core.config.model_subkeys import RESERVED_ARGS
from sparkd.core.engine.arguments import option_value
from sparkd.core.scheduling.memory import HostMemory, need_of

SHORTEST = 2


def problems_of(*words: str) -> list[str]:
    listed = ", ".join(f"'{word}'" for word in words)
    text = f"models: {{m: {{image: localhost/x, args: [{listed}]}}}}"
    config = parse([Source(kind=SourceKind.MODELS, name="m", text=text)])
    return [str(one) for one in config.problems]


@pytest.mark.parametrize("name", RESERVED_ARGS)
@pytest.mark.parametrize("form", ["--{}", "--{}=planted", "--no-{}", "--{}.field=planted"])
def test_prefix_of_a_reserved_option_is_that_option(name: str, form: str) -> None:
    for end in range(min(SHORTEST, len(name)), len(name)):
        for spelling in (name[:end], name[:end].replace("-", "_"), name[:end].upper()):
            (found,) = problems_of(form.format(spelling))
            assert "is decided by sparkd" in found
            assert "planted" not in found


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--served-model", "--served-model-name"),
        ("--api-ke", "--api-key"),
        ("--api_ke=x", "--api-key"),
        ("--enable-log-req", "--enable-log-requests"),
        ("--enable_log_req", "--enable-log-requests"),
        ("--no-enable-log-req", "--enable-log-requests"),
        ("--conf=/models/options.yaml", "--config"),
        ("--api-key.x=1", "--api-key"),
    ],
)
def test_problem_names_the_option_that_is_meant(word: str, meant: str) -> None:
    (found,) = problems_of(word)
    assert meant in found


@pytest.mark.parametrize(
    "word",
    [
        *("-tp", "-O3", "-O", "-q", "--max-model-len", "--model-impl", "--hosts", "--", "-"),
        *("--compilation-config.mode=3", "--no-enable-prefix-caching", "--host-ip=1", "host"),
    ],
)
def test_other_options_pass(word: str) -> None:
    assert problems_of(word) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-model-len", "8192"], "8192"),
        (["--max-model", "8192"], "8192"),
        (["--max_model_l=8192"], "8192"),
        (["--max-model-len", "1", "--max-model=2"], "2"),
        (["--max-num-seqs", "4"], None),
        (["--max-model-len"], ""),
        (["--max-model-len", "--x", "4"], ""),
        (["4"], None),
    ],
)
def test_value_of_an_option_is_the_one_that_argparse_takes(
    words: list[str], expected: str | None
) -> None:
    assert option_value(words, "max-model-len", "max-m") == expected
    if expected:
        parser = argparse.ArgumentParser()
        parser.add_argument("--max-model-len")
        parser.add_argument("--max-num-seqs")
        dashed = [word.replace("_", "-") for word in words]
        assert parser.parse_args(dashed).max_model_len == expected


@pytest.mark.parametrize("written", ["--gpu_memory_utilization=0.5", "--gpu-memory-util=0.5"])
def test_memory_follows_every_spelling_of_the_utilization(written: str) -> None:
    host = HostMemory(total_bytes=100, available_bytes=100, reserve_bytes=0)
    assert peak(written, host) == 50
    assert peak(f"{written}{'9' * 500}", host) is None


def peak(word: str, host: HostMemory) -> int | None:
    text = f"models: {{m: {{image: localhost/x, args: ['{word}']}}}}"
    spec = parse([Source(kind=SourceKind.MODELS, name="m", text=text)]).models["m"]
    need = need_of(spec, None, host)
    return need.peak_bytes if need else None


@pytest.mark.parametrize(
    "digits", ["0", "9" * 18, "9" * 5000, "\u0661"], ids=["none", "many", "overlong", "arabic"]
)
def test_window_of_args_that_no_model_has_is_not_told_to_clients(digits: str) -> None:
    text = f"models: {{m: {{image: localhost/x, args: ['--max-model-len={digits}']}}}}"
    config = parse([Source(kind=SourceKind.MODELS, name="m", text=text)])
    assert config.models["m"].max_model_len is None
