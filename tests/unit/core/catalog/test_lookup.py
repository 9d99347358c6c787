# SPDX-License-Identifier: Apache-2.0
"""Names as clients write them, and what a key for some models may learn of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.access.api_keys import ApiKey
from sparkd.core.catalog import lookup
from sparkd.core.errors import Disabled, Forbidden, Misconfigured, NotFound, SparkdError
from sparkd.core.http import routing
from sparkd.core.model import Adapter, Config, ModelSpec, Problem, Settings, Status, Weights

FREE = ApiKey(name="free", digest="0")
LIMITED = ApiKey(name="limited", digest="1", models=("fake-b",))
PROBLEM = Problem(source="x.yaml", line=3, path="models.hidden-bad", message="no image is given")
HIDDEN = ("fake-secret", "hidden-bad", "hidden-off", "gpt-9")
CONFIG = Config(
    models={
        "fake-b": ModelSpec(model_id="fake-b", image="i"),
        "fake-secret": ModelSpec(model_id="fake-secret", image="i"),
        "hidden-off": ModelSpec(
            model_id="hidden-off", image="i", status=Status.DISABLED, reason="it leaks"
        ),
    },
    aliases={"gpt-9": "fake-secret", "gpt-*": "fake-secret", "Mini": "fake-b"},
    broken={"hidden-bad": (PROBLEM,)},
    settings=Settings(default_model="fake-secret", small_model="hidden-bad"),
)


@pytest.mark.parametrize(
    "name",
    [
        *("fake-b", "Fake-B", "FAKE-B", "fake-b:latest", "openai/fake-b", "Ollama/x/Fake-B:latest"),
        *("mini", "Mini", "openai/MINI:latest"),
    ],
)
@pytest.mark.parametrize("key", [FREE, LIMITED])
def test_other_spellings_of_a_name_mean_the_model(name: str, key: ApiKey) -> None:
    assert lookup.resolve(CONFIG, name, key).spec.model_id == "fake-b"


def test_spelling_that_means_two_models_means_none() -> None:
    spec = CONFIG.models["fake-b"]
    config = Config(models={"a/x": spec, "A/x": replace(spec, model_id="A/x")})
    with pytest.raises(NotFound) as caught:
        lookup.resolve(config, "a/X", FREE)
    assert "a/x" in caught.value.hint.lower()


def test_exact_name_goes_before_every_other_spelling() -> None:
    spec = CONFIG.models["fake-b"]
    config = Config(models={"fake-b": spec, "Fake-B": replace(spec, model_id="Fake-B")})
    assert lookup.resolve(config, "Fake-B", FREE).spec.model_id == "Fake-B"


def test_unknown_name_is_refused_with_the_nearest_ids() -> None:
    with pytest.raises(NotFound) as caught:
        lookup.resolve(CONFIG, "fake-bb", FREE)
    assert caught.value.hint.startswith("did you mean fake-b")
    assert "hidden-off" not in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        *HIDDEN,
        "FAKE-SECRET",
        "fake-secret:latest",
        "gpt-4",
        "auto",
        "small",
        "fake-secre",
        "nobody",
    ],
)
def test_key_for_some_models_learns_nothing_of_the_others(name: str) -> None:
    with pytest.raises(Forbidden) as caught:
        lookup.resolve(CONFIG, name, LIMITED)
    error = caught.value
    assert (error.code, error.message) == (
        "model_forbidden",
        f"the API key 'limited' may not use model {name!r}",
    )
    told = f"{error} {error.details} {error.headers}".replace(name, "")
    assert not any(hidden in told for hidden in HIDDEN)
    assert "leaks" not in told
    assert "x.yaml" not in told


def test_refusal_suggests_only_models_of_the_key() -> None:
    with pytest.raises(Forbidden) as caught:
        lookup.resolve(CONFIG, "fake-secret-b", LIMITED)
    assert caught.value.hint.startswith("did you mean fake-b?")


def test_key_for_all_models_learns_the_reason() -> None:
    with pytest.raises(Misconfigured, match="no image is given"):
        lookup.resolve(CONFIG, "hidden-bad", FREE)
    with pytest.raises(Disabled, match="it leaks"):
        lookup.asked(CONFIG, routing.route("/v1/completions"), {"model": "hidden-off"}, FREE)


@pytest.mark.parametrize("key", [FREE, LIMITED])
def test_path_that_names_no_model_is_told_the_path_that_takes_it_from_the_body(key: ApiKey) -> None:
    found = routing.route("/v1/proxy/chat/completions")
    with pytest.raises(SparkdError) as caught:
        lookup.asked(CONFIG, found, {"model": "fake-b"}, key)
    assert "'proxy', which the path names" in caught.value.told(admin=False)
    assert "POST /v1/chat/completions" in caught.value.hint


@given(st.text(max_size=400))
def test_any_name_is_a_model_or_refused_in_bounded_words(name: str) -> None:
    for key in (FREE, LIMITED):
        refusal = ""
        try:
            assert key.may_use(lookup.resolve(CONFIG, name, key).spec.model_id)
        except SparkdError as error:
            refusal = str(error)
        assert len(refusal) < 3000


ADAPTED = Config(
    models={
        "base": ModelSpec(
            model_id="base",
            image="i",
            aliases=("b",),
            adapters=(
                Adapter(name="Sql", weights=Weights(path=Path("/a"))),
                Adapter(name="law", weights=Weights(path=Path("/b"))),
            ),
        )
    },
    aliases={"b": "base", "Sql": "base", "law": "base"},
    settings=Settings(default_model="law"),
)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("base", "base"),
        ("b", "base"),
        ("Base:latest", "base"),
        ("Sql", "Sql"),
        ("sql", "Sql"),
        ("openai/SQL:latest", "Sql"),
        ("law", "law"),
        ("default", "law"),
    ],
)
def test_adapter_is_served_under_its_own_name_by_its_model(name: str, served: str) -> None:
    meant = lookup.resolve(ADAPTED, name, FREE)
    assert (meant.spec.model_id, meant.name) == ("base", served)


def test_key_for_an_adapter_has_neither_the_model_nor_its_other_adapters() -> None:
    key = replace(FREE, models=("Sql",))
    assert lookup.resolve(ADAPTED, "sql", key).name == "Sql"
    for name in ("base", "b", "law"):
        with pytest.raises(Forbidden):
            lookup.resolve(ADAPTED, name, key)


def test_key_for_a_model_has_its_adapters() -> None:
    assert lookup.resolve(ADAPTED, "law", replace(FREE, models=("base",))).name == "law"


NAMED_ALIKE = Config(
    models={
        "base": ModelSpec(
            model_id="base",
            image="i",
            aliases=("SQL", "claude-*"),
            adapters=tuple(
                Adapter(name=name, weights=Weights(path=Path("/a")))
                for name in ("sql", "law", "LAW", "BASE", "opus")
            ),
        )
    },
    aliases=dict.fromkeys(("SQL", "claude-*", "sql", "law", "LAW", "BASE", "opus"), "base"),
)


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("SQL", "base"),
        ("sql", "sql"),
        ("law", "law"),
        ("LAW", "LAW"),
        ("base", "base"),
        ("BASE", "BASE"),
        ("claude-x/opus", "base"),
    ],
)
def test_exact_name_goes_before_an_adapter_of_another_spelling(name: str, served: str) -> None:
    assert lookup.resolve(NAMED_ALIKE, name, FREE).name == served


@pytest.mark.parametrize("name", ["Sql", "Law", "Base", "openai/law"])
def test_spelling_that_means_two_adapters_or_a_model_and_its_adapter_means_none(name: str) -> None:
    with pytest.raises(NotFound):
        lookup.resolve(NAMED_ALIKE, name, FREE)


def test_key_for_one_of_two_adapters_that_differ_by_case_has_not_the_other() -> None:
    key = replace(FREE, models=("LAW",))
    assert lookup.resolve(NAMED_ALIKE, "LAW", key).name == "LAW"
    with pytest.raises(Forbidden):
        lookup.resolve(NAMED_ALIKE, "law", key)


def test_adapter_near_a_wrong_name_is_suggested_to_keys_that_may_use_it() -> None:
    for models, suggested in (((), True), (("Sql",), True), (("law",), False)):
        with pytest.raises(SparkdError) as refused:
            lookup.resolve(ADAPTED, "sqll", replace(FREE, models=models))
        assert ("did you mean Sql?" in refused.value.hint) is suggested


def test_alias_that_a_pattern_of_the_key_matches_gives_no_hidden_model() -> None:
    key = replace(FREE, models=("gpt-*",))
    for name in ("gpt-9", "GPT-9", "gpt-none"):
        with pytest.raises(Forbidden) as caught:
            lookup.resolve(CONFIG, name, key)
        assert "fake-secret" not in f"{caught.value.message} {caught.value.hint}"
