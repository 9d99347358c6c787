# SPDX-License-Identifier: Apache-2.0
"""A key for one model is never told the name of another, whatever there is to tell."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.access.api_keys import ApiKey, Scope
from sparkd.core.access.visibility import Visibility
from sparkd.core.errors import Disabled, Misconfigured, NotPresent, SparkdError, StartCrashed
from sparkd.core.http.routing import unknown_path
from sparkd.core.model import Adapter, Config, ModelSpec, Problem, Weights
from sparkd.core.names import Names
from sparkd.core.scheduling.busy import Running, busy
from sparkd.core.telemetry.events import Event, as_sse
from sparkd.gateway.render import Shape, error_body, error_event, error_headers
from tests.unit.project.sources import ROOT

PROBLEM = Problem(source="x.yaml", line=3, path="models.broken-z", message="no image")
CONFIG = Config(
    models={name: ModelSpec(model_id=name, image="i") for name in ("fake-b", "fake", "org/fake-x")},
    aliases={"secret-alias": "fake", "mine": "fake-b"},
    broken={"broken-z": (PROBLEM,)},
)
HIDDEN = ("fake", "org/fake-x", "secret-alias", "broken-z")
LIMITED = Visibility(CONFIG, ApiKey(name="laptop", digest="0", models=("fake-b",)))
FREE = Visibility(CONFIG, ApiKey(name="desk", digest="1"))
STRANGER = Visibility(CONFIG, None)


def names_hidden(text: str) -> bool:
    """Whether it names a hidden model, apart from the visible one whose id begins the same."""
    rest = text.replace("fake-b", "").replace("Fake", "")
    return any(name in rest for name in HIDDEN)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("fake is in use", "another model is in use"),
        ("fake-b waits for 'fake'.", "fake-b waits for 'another model'."),
        (
            "model fake-b was stopped to make room for org/fake-x",
            "… to make room for another model",
        ),
        (f"{Names('fake').scope} did not end", "another model did not end"),
        ("as secret-alias: fake, broken-z", "as another model: another model, another model"),
        ("fake-b and mine", "fake-b and mine"),
        ("fakes", "fakes"),
    ],
)
def test_text_says_another_model_for_each_hidden_one(text: str, seen: str) -> None:
    assert LIMITED.text(text).endswith(seen.removeprefix("… "))
    assert FREE.text(text) == text


def refusal() -> SparkdError:
    running = [
        Running(
            model_id=model_id,
            state="ready",
            started_at=0.0,
            last_used_at=0.0,
            in_use=True,
            pinned=False,
            release_at=60.0,
        )
        # One that has left the configuration since it was started.
        for model_id in ("fake", "gone-by-now")
    ]
    why = "fake is in use, gone-by-now is next"
    return busy("fake-b", why, running, 1.0, code="busy", hint="ask for fake later")


@pytest.mark.parametrize("shape", Shape)
def test_refusal_for_another_model_in_use_does_not_name_it(shape: Shape) -> None:
    error = LIMITED.error(refusal())
    said = (
        error_body(error, shape, admin=False)
        + error_event(error, shape, admin=False).decode()
        + json.dumps(error_headers(error))
    )
    assert not names_hidden(said)
    assert "gone-by-now" not in said
    assert "another model is in use" in said
    assert '"x-busy-model": "another model"' in said


def test_error_that_several_requests_share_keeps_its_words_for_the_others() -> None:
    shared = refusal()
    assert LIMITED.error(shared) is not shared
    assert FREE.error(shared) is shared
    assert "fake is in use" in shared.message
    assert shared.headers["x-busy-model"] == "fake"


@pytest.mark.parametrize("visibility", [LIMITED, STRANGER])
def test_refusal_repeats_the_name_of_the_request_whether_or_not_it_exists(
    visibility: Visibility,
) -> None:
    for name in ("fake", "nobody"):
        assert visibility.error(unknown_path(f"/{name}")).message == f"there is no path '/{name}'"


@pytest.mark.parametrize(
    "error",
    [
        Misconfigured(f"the configuration has 1 problem, first: {PROBLEM}"),
        StartCrashed("model 'fake' exited", hint="sudo sparkctl logs fake"),
        Disabled("model 'fake-b' is disabled: org/fake-x is better"),
        NotPresent("model 'fake-b' is not here", hint="try fake"),
    ],
)
@pytest.mark.parametrize("visibility", [LIMITED, STRANGER])
def test_every_kind_of_error_is_told_without_hidden_names(
    error: SparkdError, visibility: Visibility
) -> None:
    told = visibility.error(error)
    assert type(told) is type(error)
    for admin in (True, False):
        assert not names_hidden(error_body(told, Shape.OPENAI, admin=admin))


def test_event_of_a_model_does_not_name_the_one_for_which_it_was_stopped() -> None:
    stopped = Event(
        at_us=1,
        name="model-stopped",
        text="model fake-b was stopped to make room for gone-by-now",
        values={"model": "fake-b", "wanted": "gone-by-now", "reason": "evicted", "waiting": 2},
    )
    told = LIMITED.event(stopped)
    assert told == replace(
        stopped,
        text="model fake-b was stopped to make room for another model",
        values={**stopped.values, "wanted": "another model"},
    )
    assert "gone-by-now" not in as_sse(told).decode()
    assert FREE.event(stopped) is stopped


def test_any_json_is_told_without_hidden_names_and_keeps_its_form() -> None:
    value = {"models": [{"id": "fake-b", "why": ["fake is next"], "n": 1, "f": None, "ok": True}]}
    assert LIMITED.value(value) == {
        "models": [
            {"id": "fake-b", "why": ["another model is next"], "n": 1, "f": None, "ok": True}
        ]
    }
    assert FREE.value(value) is value


def test_admin_key_of_some_models_is_a_key_of_some_models() -> None:
    key = ApiKey(name="a", digest="2", scopes=tuple(Scope), models=("fake-b",))
    assert not names_hidden(Visibility(CONFIG, key).text("fake is in use"))


@given(st.text())
def test_any_text_can_be_told(text: str) -> None:
    LIMITED.text(text)
    STRANGER.value({text: [text]})


def test_every_handler_that_shows_models_asks_the_sight_of_the_key() -> None:
    """The handlers whose responses name models each call `sight_of`, or refuse such a key."""
    gateway = ROOT / "sparkd/gateway"
    shown = {
        "handlers/admin.py": {"show_status", "debug_state", "show_diagnosis"},
        "handlers/inference.py": {"_listed", "show_model", "_noticed"},
        "handlers/events.py": {"_listen"},
        "application.py": {"_on_error"},
        "handlers/relay.py": {"_tell"},
    }
    for module, functions in shown.items():
        found = {
            node.name: ast.unparse(node)
            for node in ast.walk(ast.parse((gateway / module).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for name in functions:
            assert "visibility_of(" in found[name], (module, name)


def test_key_for_an_adapter_reads_its_id_and_not_the_one_of_its_model() -> None:
    adapter = Adapter(name="sql", weights=Weights(path=Path("/a")))
    config = Config(
        models={"base": ModelSpec(model_id="base", image="i", adapters=(adapter,))},
        aliases={"sql": "base"},
    )
    shown = Visibility(config, ApiKey(name="laptop", digest="0", models=("sql",))).value(
        ["sql", "base"]
    )
    assert shown == ["sql", "another model"]
