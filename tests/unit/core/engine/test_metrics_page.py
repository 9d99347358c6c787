# SPDX-License-Identifier: Apache-2.0
"""Pages of engines become one that Prometheus can read."""

from __future__ import annotations

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sparkd.core.engine.metrics_page import SERIES_MAX, merged

PAGE = """\
# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="x"} 1.0
# HELP vllm:e2e_seconds Histogram {of} seconds.
# TYPE vllm:e2e_seconds histogram
vllm:e2e_seconds_bucket{engine="0",le="0.3"} 1.0
vllm:e2e_seconds_bucket{engine="0",le="+Inf"} 2.0
vllm:e2e_seconds_count{engine="0"} 2.0
vllm:e2e_seconds_sum{engine="0"} 3.0
# HELP process_cpu_seconds_total Total.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 3.0
vllm:bare 7
"""


def test_series_of_two_models_are_one_family_each_with_its_model() -> None:
    text, dropped = merged({"org/a": PAGE, "b": PAGE})
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {"vllm:num_requests_running", "vllm:e2e_seconds", "vllm:bare"}
    running = families["vllm:num_requests_running"]
    assert [(s.labels["model"], s.labels["engine"]) for s in running.samples] == [
        ("org/a", "0"),
        ("b", "0"),
    ]
    assert len(families["vllm:e2e_seconds"].samples) == 8
    assert text.count("# TYPE vllm:e2e_seconds histogram") == 1
    assert dropped == {"org/a": 0, "b": 0}


def test_only_what_is_about_the_engine_is_taken() -> None:
    assert "process_" not in merged({"a": PAGE})[0]


def test_series_of_one_model_are_bounded() -> None:
    page = "".join(f'vllm:x{{i="{number}"}} 1\n' for number in range(SERIES_MAX + 7))
    text, dropped = merged({"a": page, "b": PAGE})
    assert dropped == {"a": 7, "b": 0}
    assert text.count('model="a"') == SERIES_MAX


def test_garbage_gives_nothing() -> None:
    assert merged({"a": "<html>no</html>\n\x00\n# TYPE\n# HELP \n"}) == ("", {"a": 0})


@pytest.mark.parametrize(
    "line",
    [
        *("vllm:x 1e5e5", "vllm:x", "vllm:x  1", "vllm:x 1 2 3", "vllm:x nan", "vllm:x 1e999"),
        *('vllm:x{model="other"} 1', 'vllm:x{a="1",a="2"} 1', 'vllm:x{a="1} 1', "vllm:x{a=1} 1"),
        *('vllm:x{="1"} 1', 'vllm:x{a="\\q"} 1', "vllm:\u00e9 1", 'vllm:x{\u00e9="1"} 1'),
        *('vllm:x{a="1"}} 1', 'vllm:x{a="1"} 1 # {} 1', "vllm:x " + "9" * 400, "vllm: 1"),
        'vllm:x{a="' + "b" * 3000 + '"} 1',
    ],
)
def test_line_that_prometheus_would_refuse_is_left_out(line: str) -> None:
    assert merged({"a": line + "\nvllm:y 1\n"}) == ('vllm:y{model="a"} 1\n', {"a": 0})


@pytest.mark.parametrize(
    "head",
    ["# TYPE vllm:x odd", "# TYPE vllm:x", "# HELP vllm:x a\\q", "# TYPE vllm:\u00e9 gauge"],
)
def test_head_that_prometheus_would_refuse_is_left_out(head: str) -> None:
    assert merged({"a": f"{head}\nvllm:x 1\n"})[0] == 'vllm:x{model="a"} 1\n'


def test_series_that_comes_twice_counts_once() -> None:
    assert merged({"a": 'vllm:x{b="1"} 1\nvllm:x{b="1"} 2\n'})[0] == 'vllm:x{model="a",b="1"} 1\n'


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e+06", "-2.5"])
def test_value_of_prometheus_passes(value: str) -> None:
    assert merged({"a": f"vllm:x {value}\n"})[0] == f'vllm:x{{model="a"}} {value}\n'


@pytest.mark.parametrize(
    "page",
    [
        "\n" * (2 << 20),
        "".join(f"# HELP vllm:x{number} a\n" for number in range(80_000)),
        'vllm:x{a="1",' * 100_000,
        ("vllm:x{" + 'a="",' * 390 + "\n") * 1000,
        ('vllm:x{a="' + "\\\\" * 990 + "\n") * 1000,
    ],
    ids=["lines", "heads", "one line", "labels", "escapes"],
)
def test_largest_page_is_read_in_a_moment(page: str) -> None:
    began_s = time.thread_time()
    merged({"a": page})
    assert time.thread_time() - began_s < 1.0
