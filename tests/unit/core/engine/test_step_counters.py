# SPDX-License-Identifier: Apache-2.0
"""Reading of the engine's /metrics: does it move?"""

from __future__ import annotations

import time

import pytest

from sparkd.core.engine.step_counters import LINE_CHARS_MAX, LINES_MAX, Steps, parse_steps

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 9.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="m"} 8.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 1.5e+03
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 77.0
"""


def test_steps_and_running_requests_are_read() -> None:
    assert parse_steps(PAGE) == Steps(iterations=1500.0, running=2.0)
    assert parse_steps(PAGE).countable


def test_engines_of_one_server_are_added_up() -> None:
    second = PAGE.replace('engine="0"', 'engine="1"')
    assert parse_steps(PAGE + second) == Steps(iterations=3000.0, running=4.0)


@pytest.mark.parametrize(
    "page",
    ["", "nonsense", PAGE.replace("iteration_tokens_total_count", "x"), PAGE.replace(" 2.0", " 0")],
)
def test_page_that_cannot_tell_a_hang_says_so(page: str) -> None:
    assert not parse_steps(page).countable


RUNNING = "vllm:num_requests_running"


@pytest.mark.parametrize(
    "said",
    [
        *(
            "1e5e5",
            "NaN",
            "nan",
            "Inf",
            "+Inf",
            "-Inf",
            "-1",
            "1e999",
            "9" * 500,
            "",
            "0x10",
            "1_0",
        ),
        *("\u0661", "1,5", "{}", '"1"', "1e19", "++1", "." * 40),
    ],
)
def test_value_that_is_no_plausible_number_is_no_reading(said: str) -> None:
    steps = parse_steps(f'{RUNNING} 1\n{RUNNING}{{a="b"}} {said}\n')
    assert steps == Steps(iterations=None, running=None)


@pytest.mark.parametrize(
    "page",
    [
        RUNNING + "{" * LINE_CHARS_MAX,
        (RUNNING + "{") * 100,
        f"{RUNNING}\n" * 100,
        f"{RUNNING} 1\n" * 1000,
        "\x00\r\x85" * 100,
        RUNNING + "x 5",
        f"{RUNNING} " + "\u2028 5",
    ],
)
def test_odd_page_is_no_reading(page: str) -> None:
    assert parse_steps(page) == Steps(iterations=None, running=None)


def test_label_may_hold_a_brace_and_a_sample_may_have_a_time() -> None:
    assert parse_steps(RUNNING + '{model_name="a}b{c d"} 3 1700000000').running == 3.0


def test_lines_past_the_limit_are_not_read() -> None:
    assert parse_steps("\n" * LINES_MAX + f"{RUNNING} 1").running is None
    assert parse_steps("\n" * (LINES_MAX - 1) + f"{RUNNING} 1").running == 1.0


@pytest.mark.parametrize(
    "page",
    ["\n" * (2 << 20), (RUNNING + "{") * 80_000, f"{RUNNING}{{\n" * 75_000, "x" * (2 << 20)],
    ids=["lines", "one line", "labels", "no line"],
)
def test_largest_page_is_read_in_a_moment(page: str) -> None:
    began_s = time.thread_time()
    parse_steps(page)
    assert time.thread_time() - began_s < 0.5
