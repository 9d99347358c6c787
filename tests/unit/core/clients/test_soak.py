# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of a soak: tiers, calibrated prompts, what counts as clean, what is suggested."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from sparkd.core.clients.soak import (
    Attempt,
    Calibration,
    Report,
    Tier,
    as_json,
    prompt,
    shortfall,
    suggestion,
    tiers_of,
)
from sparkd.core.errors import RequestError

GOOD = Attempt(prompt_tokens=1000, completion_tokens=200, seconds=2.0)
BAD = Attempt(prompt_tokens=0, completion_tokens=0, seconds=1.0, problem="upstream_lost: it died")


def report(*tiers: Tier, window: int | None = 8192) -> Report:
    return Report(
        model_id="m",
        spec_hash="abc",
        window=window,
        concurrency=2,
        answer_tokens=256,
        tiers=tiers,
    )


def tier(tokens: int, *attempts: Attempt) -> Tier:
    return Tier(tokens=tokens, attempts=attempts)


def test_tiers_end_where_the_answer_still_fits() -> None:
    assert tiers_of(8192, 256) == (1024, 2048, 4096, 6144, 8192 - 256 - 32)
    assert tiers_of(400, 256) == (50, 100, 112)


def test_window_that_an_answer_fills_is_refused() -> None:
    with pytest.raises(RequestError, match="an answer of 256 tokens leaves no prompt in 256"):
        tiers_of(256, 256)


def test_calibrated_prompt_is_as_long_as_wanted_and_never_longer() -> None:
    def counted(pages: int) -> int:
        return len(re.findall(r"\d|[^\W\d]+", prompt(pages, "x")))

    calibration = Calibration.of((4, counted(4)), (40, counted(40)))
    for tokens in (500, 2000, 10_000):
        found = counted(calibration.pages(tokens))
        assert tokens * 0.97 < found <= tokens


def test_engine_that_counts_no_prompt_tokens_cannot_be_calibrated() -> None:
    with pytest.raises(RequestError, match="not counted as more tokens"):
        Calibration.of((4, 0), (40, 0))


def test_prompts_of_one_tier_share_no_beginning() -> None:
    assert prompt(10, "1024-0")[:15] != prompt(10, "1024-1")[:15]


def test_prompt_that_was_shortened_or_an_empty_answer_is_not_clean() -> None:
    assert shortfall(1000, GOOD) is None
    assert shortfall(1020, GOOD) is None
    assert shortfall(2000, GOOD) == "its prompt was counted as 1000 tokens instead of 2000"
    assert shortfall(1000, replace(GOOD, completion_tokens=0)) == "its answer is empty"


def test_one_bad_request_of_several_makes_a_tier_fail() -> None:
    found = report(tier(1024, GOOD, GOOD), tier(4096, GOOD, GOOD), tier(6144, GOOD, BAD))
    assert found.highest_clean == found.tiers[1]
    assert found.first_failing == found.tiers[2]
    assert found.tiers[2].problem == "upstream_lost: it died"


def test_suggestion_is_what_was_clean_with_its_answer_in_whole_thousands() -> None:
    found = report(tier(4096, GOOD), tier(6144, BAD))
    assert suggestion(found) == "in its entry: clients: {all: {context: 4096}}"
    assert suggestion(report(tier(7904, GOOD))) == (
        "the whole context window is clean: nothing to change"
    )
    assert suggestion(report(tier(1024, GOOD))) == (
        "clean up to 1280 tokens, the longest that was tried"
    )
    assert suggestion(report(tier(1024, BAD))).startswith("nothing was clean")


def test_report_tells_the_worst_of_each_tier() -> None:
    found = as_json(report(tier(1024, GOOD, replace(GOOD, prompt_tokens=990, seconds=3.0))))
    assert (found["highest_clean"], found["first_failing"]) == (1024, None)
    assert found["tiers"] == [
        {
            "tokens": 1024,
            "clean": True,
            "problem": None,
            "seconds": 3.0,
            "prompt_tokens": 990,
            "completion_tokens": 200,
            "least_available_bytes": None,
        }
    ]
