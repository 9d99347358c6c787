# SPDX-License-Identifier: Apache-2.0
"""Names derived from a model id: the host takes them all, and no two models share one."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.errors import RequestError
from sparkd.core.names import (
    MAX_ESCAPED_CHARS,
    Layout,
    Names,
    check_model_id,
    escape,
    model_of_scope,
    unescape,
)

PLAIN = string.ascii_letters + string.digits


def fits(model_id: str) -> bool:
    return ".." not in model_id and len(escape(model_id)) <= MAX_ESCAPED_CHARS


model_ids = st.builds(
    str.__add__, st.sampled_from(PLAIN), st.text(PLAIN + "._:/+-", max_size=78)
).filter(fits)


@pytest.mark.parametrize(
    "model_id",
    ["a", "7", "gpt-oss-20b", "qwen3.5-0.8b", "org/name", "a:b", "a_b", "a+b", "x" * 79],
)
def test_usual_ids_name_models(model_id: str) -> None:
    assert check_model_id(model_id) == model_id


@pytest.mark.parametrize(
    "model_id",
    ["", ".", "..", "-a", "/a", "_a", "a b", "a\n", "a..b", "ä", "a\0b", "a@b", "a%b", "a\\x2fb"],
)
def test_what_could_be_mistaken_for_something_else_names_no_model(model_id: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_model_id(model_id)
    assert repr(model_id) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("model_id", ["x" * 80, "a" + "/b" * 20])
def test_id_whose_socket_could_not_be_bound_is_refused(model_id: str) -> None:
    with pytest.raises(RequestError, match="too long") as caught:
        check_model_id(model_id)
    assert "79" in caught.value.hint


def test_refusal_of_an_endless_id_is_one_short_line() -> None:
    for model_id in ("x" * 10_000, "-" * 10_000):
        with pytest.raises(RequestError) as caught:
            check_model_id(model_id)
        assert len(str(caught.value)) < 300


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_unescape_undoes_escape(text: str) -> None:
    assert unescape(escape(text)) == text


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_escaped_text_holds_only_what_unit_and_file_names_may_hold(text: str) -> None:
    assert re.fullmatch(r"(?:[A-Za-z0-9:_.-]|\\x[0-9a-f]{2})*", escape(text))


@given(model_ids)
def test_every_accepted_id_can_be_bound_and_named(model_id: str) -> None:
    names, layout = Names(check_model_id(model_id)), Layout()
    units = (names.scope, names.load_timer, names.idle_timer, names.idle_service)
    assert max(map(len, units)) <= 255
    assert len(str(layout.endpoint_socket(names))) <= 107
    assert len(layout.transition_lock(names).name) <= 255
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", names.container)


@given(model_ids)
def test_scope_leads_back_to_its_model(model_id: str) -> None:
    assert model_of_scope(Names(model_id).scope) == model_id


@given(model_ids)
def test_container_name_could_be_read_back_so_no_two_ids_share_one(model_id: str) -> None:
    tail = Names(model_id).container.removeprefix("sparkd-model-")
    assert re.sub("_([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), tail) == model_id


@given(st.sets(model_ids, min_size=2, max_size=2))
def test_two_models_share_nothing(pair: set[str]) -> None:
    layout = Layout()
    one, other = (
        {
            names.scope,
            names.container,
            names.load_timer,
            names.idle_timer,
            names.idle_service,
            str(layout.transition_lock(names)),
            str(layout.activity_lock(names)),
            str(layout.endpoint_dir(names)),
            str(layout.cache_dir(names)),
        }
        for names in map(Names, pair)
    )
    assert not one & other


@given(model_ids)
def test_no_model_has_the_lock_that_orders_starts(model_id: str) -> None:
    layout, names = Layout(), Names(model_id)
    locks = (layout.transition_lock(names), layout.activity_lock(names))
    assert layout.start_lock not in locks
    assert all(lock.parent == layout.locks_dir for lock in locks)


@pytest.mark.parametrize(
    "unit",
    ["", "sparkd.slice", "sparkd-model-.scope", "sparkd-model-a.service", "x-sparkd-model-a.scope"],
)
def test_units_of_others_are_no_model(unit: str) -> None:
    assert model_of_scope(unit) is None


def test_names_of_one_model_as_a_person_reads_them() -> None:
    names = Names("org/qwen3.5_a:b")
    assert names.scope == r"sparkd-model-org\x2fqwen3.5_a:b.scope"
    assert names.container == "sparkd-model-org_2fqwen3.5_5fa_3ab"
    assert names.load_timer == r"sparkd-load@org\x2fqwen3.5_a:b.timer"
    assert names.idle_timer == r"sparkd-idle@org\x2fqwen3.5_a:b.timer"
    assert names.idle_service == r"sparkd-idle@org\x2fqwen3.5_a:b.service"


def test_layout_keeps_to_its_two_roots() -> None:
    layout = Layout(runtime_dir=Path("/r"), state_dir=Path("/s"))
    names = Names("m")
    assert layout.gpu_lock == Path("/r/gpu.lock")
    assert layout.lane_lock == Path("/r/lane.lock")
    assert layout.drop_caches == Path("/r/drop-caches")
    assert layout.start_lock == Path("/r/locks/start")
    assert layout.transition_lock(names) == Path("/r/locks/m.transition")
    assert layout.activity_lock(names) == Path("/r/locks/m.activity")
    assert layout.endpoint_socket(names) == Path("/r/models/m/api.sock")
    assert layout.cache_dir(names) == Path("/s/cache/m")
    assert layout.weights_dir == Path("/s/models")
    assert layout.stats_dir == Path("/s/stats")
    assert layout.failures_dir == Path("/r/failures")
    assert layout.host_path(Path("a.json")) == Path("/s/files/a.json")
    assert layout.host_path(Path("/elsewhere/a.json")) == Path("/elsewhere/a.json")


def test_code_that_runs_in_containers_is_where_the_layout_says() -> None:
    layout = Layout(runtime_dir=Path("/r"), state_dir=Path("/s"))
    assert (layout.in_container_dir / "sparkd_sleep.py").is_file()
