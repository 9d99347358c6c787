# SPDX-License-Identifier: Apache-2.0
"""The counters of the gateway: right, bounded, and taken over by the next gateway."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from sparkd.core.telemetry.traffic import (
    LABEL_SETS_MAX,
    OTHER,
    Histogram,
    ResponseMeter,
    Traffic,
    usage_of,
)

CHAT = (
    b'data: {"choices":[],"usage":{"prompt_tokens":4,"total_tokens":8,"completion_tokens":4,'
    b'"prompt_tokens_details":{"cached_tokens":2}}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize(
    ("tail", "tokens"),
    [
        (CHAT, {"prompt": 4, "completion": 4}),
        (b'{"usage": {"input_tokens": 7, "output_tokens": 9}}', {"prompt": 7, "completion": 9}),
        (b'{"usage":{"prompt_tokens":3,"total_tokens":3}}', {"prompt": 3}),
        (b'{"usage":null}', {}),
        (b'{"usage":{"prompt_tokens":3},"timings":{"usage":null}}', {"prompt": 3}),
        (b'{"usage":{"prompt_tokens":"3"}}', {}),
        (b'{"usage":{"prompt_tokens":3', {}),
        # No count of tokens, however it is written.
        (b'{"usage":{"prompt_tokens":999999999999}}', {}),
        (b'{"usage":{"prompt_tokens":%s}}' % (b"9" * 4000), {}),
        (b'{"usage":{"prompt_tokens":1.5e9}}', {}),
        (b'{"usage":{"prompt_tokens":12.5}}', {}),
        (b'{"usage":{"prompt_tokens":-3}}', {}),
        (b'{"usage":{"prompt_tokens":1e5}}', {}),
        (b'{"usage":{"prompt_tokens":NaN}}', {}),
        (b'{"usage":{"prompt_tokens":[3]}}', {}),
        (b'{"usage":{"prompt_tokens":{"prompt_tokens":3}}}', {"prompt": 3}),
        (b'{"usage":{"prompt_tokens":3,"prompt_tokens":4}}', {"prompt": 4}),
        (b'{"usage":' * 900, {}),
        (b"", {}),
        # What was said about usage is not usage.
        (b'{"content":"{\\"usage\\":{\\"prompt_tokens\\":1}}"}', {}),
    ],
)
def test_tokens_are_what_the_end_of_the_answer_says(tail: bytes, tokens: dict[str, int]) -> None:
    assert usage_of(tail) == tokens


@pytest.mark.parametrize("cut", range(1, len(CHAT)))
def test_usage_may_be_spread_over_the_last_two_chunks(cut: int) -> None:
    response_meter = ResponseMeter(None)
    for part in (b"x" * 9999, CHAT[:cut], CHAT[cut:]):
        response_meter.chunk(part, 0.0)
    assert response_meter.tokens() == {"prompt": 4, "completion": 4}


def test_time_between_chunks_is_counted_but_not_that_before_the_first() -> None:
    gaps = Histogram((0.01, 0.1))
    response_meter = ResponseMeter(gaps)
    for at_s in (5.0, 5.005, 5.055, 9.0):
        response_meter.chunk(b"x", at_s)
    assert gaps.counts == [1, 1, 1]
    assert gaps.sum == pytest.approx(4.0)
    assert (response_meter.first_s, response_meter.size) == (5.0, 4)


def test_value_at_a_bound_is_in_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.0)
    assert histogram.counts == [1, 0, 0]


def test_request_is_counted_with_its_answer() -> None:
    traffic = Traffic()
    with traffic.in_flight_request("m", 100):
        assert traffic.in_flight == {"m": 1}
        response_meter = traffic.response_meter("m", streaming=True)
        response_meter.chunk(CHAT, 11.5)
    labels = ("m", "chat/completions", "200", "")
    traffic.ended(labels, response_meter, began_s=10.0, now_s=12.0)
    assert traffic.in_flight == {}
    assert traffic.counts == {
        "sparkd_request_bytes_total": {("m",): 100},
        "sparkd_requests_total": {labels: 1},
        "sparkd_response_bytes_total": {("m",): len(CHAT)},
        "sparkd_tokens_total": {("m", "prompt"): 4, ("m", "completion"): 4},
    }
    assert traffic.histograms["sparkd_time_to_first_byte_seconds"]["m",].sum == 1.5
    assert traffic.histograms["sparkd_request_duration_seconds"]["m",].sum == 2.0


def test_flight_ends_however_it_ends() -> None:
    traffic = Traffic()
    with pytest.raises(ValueError, match="broke"), traffic.in_flight_request("m", 1):
        raise ValueError("broke")
    assert traffic.in_flight == {}


def serve(traffic: Traffic, number: int, models: int) -> None:
    model = f"model-{number % models}"
    with traffic.in_flight_request(model, 10):
        response_meter = traffic.response_meter(model, streaming=True)
        response_meter.chunk(b"x" * 100, 1.0)
        response_meter.chunk(CHAT, 1.1)
    traffic.waited(model, 0.1)
    traffic.ended((model, "responses", "200", ""), response_meter, began_s=0.9, now_s=1.2)


def test_ten_thousand_requests_over_sixty_models_take_no_more_than_the_first_sixty() -> None:
    traffic = Traffic()
    for number in range(60):
        serve(traffic, number, 60)
    tracemalloc.start()
    try:
        for number in range(10_000):
            serve(traffic, number, 60)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 100_000


def test_label_sets_are_bounded_and_nothing_is_lost() -> None:
    traffic = Traffic()
    for number in range(LABEL_SETS_MAX + 500):
        traffic.add("sparkd_requests_total", (f"m{number}", "chat/completions", "200", ""))
    counts = traffic.counts["sparkd_requests_total"]
    assert len(counts) == LABEL_SETS_MAX + 1
    assert counts[(OTHER,) * 4] == 500


def test_next_gateway_goes_on_where_the_last_one_was() -> None:
    before, after = Traffic(), Traffic()
    for number in range(5):
        serve(before, number, 2)
    after.restore(json.loads(json.dumps(before.dump())))
    assert after.dump() == before.dump()
    serve(after, 0, 2)
    assert after.counts["sparkd_requests_total"]["model-0", "responses", "200", ""] == 4


@pytest.mark.parametrize(
    "broken",
    [
        {"counts": {"x": 3}},
        {"counts": [1]},
        {"histograms": {"unknown": [["m", 1.0, [1]]]}},
        {"histograms": {"sparkd_queue_wait_seconds": [["m", 1.0, [1]]]}},
    ],
)
def test_what_does_not_fit_is_left_out(broken: dict[str, object]) -> None:
    Traffic().restore(broken)


@pytest.mark.parametrize(
    "dumped",
    [
        *(None, [], 7, {"counts": 3}, {"counts": {"n": 3}}, {"counts": {"n": [3, [], ["a", 1.5]]}}),
        *({"counts": {"n": [["a", float("inf")]]}}, {"counts": {"n": [[["a"], 1]]}}),
        *({"counts": {"n": [["a", -1], ["a", True], ["a", 1 << 70]]}}, {"histograms": {"n": [[]]}}),
        {"histograms": {"sparkd_chunk_gap_seconds": [["m", float("nan"), [0] * 14]]}},
        {"histograms": {"sparkd_chunk_gap_seconds": [["m", 1.0, [0.5] * 14], ["m", 1.0, 3]]}},
    ],
)
def test_what_no_daemon_counted_changes_nothing(dumped: object) -> None:
    traffic = Traffic()
    traffic.restore(dumped)
    assert not any(traffic.counts.values())
    assert all(one.sum == 0.0 for rows in traffic.histograms.values() for one in rows.values())
