# SPDX-License-Identifier: Apache-2.0
"""Reading of the engine's /metrics: does it move?"""

from __future__ import annotations

import pytest

from sparkd.core.enginemetrics import Steps, parse_steps

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
