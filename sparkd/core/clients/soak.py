# SPDX-License-Identifier: Apache-2.0
"""The plan of a soak: context tiers, prompts of a wanted length, and the result.

Pure: the requests are sent elsewhere. A tier is clean when every one of its concurrent requests
was answered whole, with something in the answer, and had as many prompt tokens as it was to have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sparkd.core.errors import RequestError

_FILLER = (
    "The harbour master writes down every ship: its name, where it comes from, what it carries.",
    "On windy days the ferries wait behind the breakwater until the flag is taken down.",
    "Salt is kept in the long shed, rope in the short one, and nobody is to smoke in either.",
    "A boat that leaves before dawn shows two lights, one above the other.",
    "In spring the divers look at the chains, and in autumn the chains are tarred.",
    "Whoever finds a net returns it to the office and is given a coin for it.",
)
_QUESTION = (
    "Above are pages of a logbook. Sum them up under three headings: what is done, what is"
    " forbidden, what is open. Write at least a hundred words."
)
SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Tiers of a window; the last one is all of it but the answer."""
_ROUND_TOKENS = 1024
_TOLERANCE = 0.02
"""By how much a prompt may miss its length."""
_TOLERANCE_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request of a tier."""

    prompt_tokens: int
    completion_tokens: int
    seconds: float
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One context length, tried by several requests at once."""

    tokens: int
    """Of the prompt."""
    attempts: tuple[Attempt, ...]
    least_available_bytes: int | None = None
    """MemAvailable of the host at its lowest meanwhile."""

    @property
    def problem(self) -> str | None:
        """Why it is not clean."""
        return next((one.problem for one in self.attempts if one.problem), None)

    @property
    def seconds(self) -> float:
        return max((one.seconds for one in self.attempts), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a soak found of one model, as it was configured."""

    model_id: str
    spec_hash: str
    window: int | None
    concurrency: int
    answer_tokens: int
    tiers: tuple[Tier, ...]

    @property
    def highest_clean(self) -> Tier | None:
        return next((tier for tier in reversed(self.tiers) if tier.problem is None), None)

    @property
    def first_failing(self) -> Tier | None:
        return next((tier for tier in self.tiers if tier.problem is not None), None)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How many tokens a page of the filler has for this model, and what comes on top of pages."""

    page_tokens: float
    rest_tokens: float

    @classmethod
    def of(cls, few: tuple[int, int], many: tuple[int, int]) -> Calibration:
        """From two measurements, each of pages and of the tokens they were counted as."""
        page_tokens = (many[1] - few[1]) / (many[0] - few[0])
        if page_tokens <= 0:
            raise RequestError(
                f"more text is not counted as more tokens: {few[1]} of {few[0]} pages, "
                f"{many[1]} of {many[0]}",
                hint="an engine that does not count the tokens of prompts cannot be soaked",
            )
        return cls(page_tokens, few[1] - few[0] * page_tokens)

    def pages(self, tokens: int) -> int:
        """How many pages make a prompt of that length, and not a longer one."""
        return max(0, int((tokens - self.rest_tokens) / self.page_tokens))


def prompt(pages: int, salt: str) -> str:
    """A prompt of that many pages; the salt is first, so that no two share a cached beginning."""
    lines = [f"Logbook {salt}."]
    # Of one width: to many models each digit is a token.
    lines += (f"{number:06d} {_FILLER[number % len(_FILLER)]}" for number in range(pages))
    return "\n".join([*lines, _QUESTION])


def tiers_of(window: int, answer_tokens: int) -> tuple[int, ...]:
    """The prompt lengths to be tried in a context window, the longest leaving the answer's place.

    Raises RequestError when the window leaves none.
    """
    longest = window - answer_tokens - _TOLERANCE_TOKENS
    wanted = [int(window * share) for share in SHARES]
    if longest < 1:
        raise RequestError(
            f"an answer of {answer_tokens} tokens leaves no prompt in {window}",
            hint="a smaller --answer, or --tiers",
        )
    return (*(tokens for tokens in wanted if tokens < longest), longest)


def shortfall(tokens: int, attempt: Attempt) -> str | None:
    """What is wrong with a request that was answered: a shorter prompt proves nothing."""
    least = tokens - max(_TOLERANCE_TOKENS, int(tokens * _TOLERANCE))
    if attempt.prompt_tokens < least:
        return f"its prompt was counted as {attempt.prompt_tokens} tokens instead of {tokens}"
    if attempt.completion_tokens < 1:
        return "its answer is empty"
    return None


def suggestion(report: Report) -> str:
    """What to change in the catalog, or that nothing is to be changed."""
    clean, failing, window = report.highest_clean, report.first_failing, report.window
    if clean is None:
        return "nothing was clean: use another configuration, or a smaller model"
    good = clean.tokens + report.answer_tokens
    if failing is None:
        if window is None or good < window - _ROUND_TOKENS:
            return f"clean up to {good} tokens, the longest that was tried"
        return "the whole context window is clean: nothing to change"
    shown = good // _ROUND_TOKENS * _ROUND_TOKENS if good > _ROUND_TOKENS else good
    return f"in its entry: clients: {{all: {{context: {shown}}}}}"


def as_json(report: Report) -> dict[str, object]:
    """The report as it is kept and printed."""
    clean, failing = report.highest_clean, report.first_failing
    return {
        "id": report.model_id,
        "spec": report.spec_hash,
        "max_model_len": report.window,
        "concurrency": report.concurrency,
        "answer_tokens": report.answer_tokens,
        "highest_clean": clean.tokens if clean else None,
        "first_failing": failing.tokens if failing else None,
        "suggestion": suggestion(report),
        "tiers": [_tier_as_json(tier) for tier in report.tiers],
    }


def _tier_as_json(tier: Tier) -> dict[str, object]:
    return {
        "tokens": tier.tokens,
        "clean": tier.problem is None,
        "problem": tier.problem,
        "seconds": round(tier.seconds, 2),
        "prompt_tokens": _least(one.prompt_tokens for one in tier.attempts),
        "completion_tokens": _least(one.completion_tokens for one in tier.attempts),
        "least_available_bytes": tier.least_available_bytes,
    }


def _least(counts: Iterable[int]) -> int:
    return min(counts, default=0)
