# SPDX-License-Identifier: Apache-2.0
"""Pages of engines become one that Prometheus can read."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from sparkd.core.enginepages import SERIES_MAX, merged

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
