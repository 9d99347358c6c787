# SPDX-License-Identifier: Apache-2.0
"""Client configurations: in each client's own words, with the limits of the catalog, without a key.

That real clients take them is tried on the booted hosts. Run as a program, this writes the
document with the examples anew.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparkd.core.clients.integrations import (
    KEY_PLACEHOLDER,
    Choice,
    Gateway,
    Target,
    choose,
    render,
    served_as,
)
from sparkd.core.clients.programs import is_offered, offer
from sparkd.core.config.load import Source, SourceKind
from sparkd.core.config.load import parse as parse_catalog
from sparkd.core.model import Adapter, Client, Dialect, Lifecycle, ModelSpec, Status, Weights
from sparkd.sparkctl.arguments import CLIENTS, parse
from sparkd.sparkctl.commands.integrate import checked_url
from sparkd.sparkctl.exit_codes import UsageError
from tests.unit.project.sources import ROOT

MODELS = parse_catalog(
    [
        Source(kind=SourceKind.MODELS, name=str(path), text=path.read_text())
        for path in sorted((ROOT / "etc/models.d").glob("*.yaml"))
    ]
).models
DOCUMENT = ROOT / "docs/integrations.md"
TABLE = "| Model | Context | Output | Tools | Pictures | Options |\n|---|---|---|---|---|---|\n"
GATEWAY = Gateway(url="http://127.0.0.1:8009")
KEY = "sk-sparkd-secret"
targets = pytest.mark.parametrize("target", Target)


def chosen(*named: str) -> Choice:
    choice = choose(MODELS.values(), [MODELS[model_id] for model_id in named])
    assert choice is not None
    return choice


def written(target: Target, *named: str, key: str | None = None) -> str:
    return render(target, chosen(*named), Gateway(url=GATEWAY.url, key=key))


def opencode(*named: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(written(Target.OPENCODE, *named))
    return document


def documented() -> str:
    """The document with its examples and its table put in; all else of it is written by hand."""

    def example(match: re.Match[str]) -> str:
        command: str = match[1]
        options = parse(command.split()[2:])
        return f"```\n{command}\n{written(Target(options.client), *options.models)}```"

    text = re.sub(r"```\n(\$ sparkctl integrate .*)\n(?:.*\n)*?```", example, DOCUMENT.read_text())
    before, heading, _ = text.partition(TABLE)
    return before + heading + "".join(row(spec) for spec in chosen().models)


def row(spec: ModelSpec) -> str:
    told = offer(spec, Client.OPENCODE)
    cells = (
        f"`{spec.model_id}`",
        context(spec),
        str(told.output_tokens),
        "yes" if told.tools else "",
        "yes" if told.vision else "",
        ", ".join(f"{name} {value}" for name, value in told.options),
    )
    return f"| {' | '.join(cells)} |\n"


def context(spec: ModelSpec) -> str:
    """What OpenCode counts with, and Cline where that is another number."""
    opencode = offer(spec, Client.OPENCODE).context_tokens
    cline = offer(spec, Client.CLINE).context_tokens
    return str(opencode) if cline == opencode else f"{opencode}, Cline {cline}"


def test_the_document_shows_what_the_command_prints() -> None:
    assert DOCUMENT.read_text() == documented(), (
        "to write it, with the Python of the tests: -m tests.unit.core.clients.test_integrations"
    )


def test_the_command_line_offers_every_client() -> None:
    assert tuple(Target) == CLIENTS


def test_a_client_begins_with_a_proven_model_and_has_titles_written_by_the_utility() -> None:
    choice = chosen()
    assert choice.main.status is Status.VALIDATED
    assert choice.main.lifecycle is not Lifecycle.UTILITY
    assert choice.small.lifecycle is Lifecycle.UTILITY


def test_a_client_is_told_of_every_offered_model_and_of_no_other() -> None:
    told = set(opencode()["provider"]["sparkd"]["models"])
    assert told == {model_id for model_id, spec in MODELS.items() if is_offered(spec)}


def test_who_names_models_gets_these_and_begins_with_the_first() -> None:
    document = opencode("gpt-oss-120b", "gemma4-31b")
    assert list(document["provider"]["sparkd"]["models"]) == ["gpt-oss-120b", "gemma4-31b"]
    assert document["model"] == document["small_model"] == "sparkd/gpt-oss-120b"


def test_a_model_that_does_not_chat_is_no_choice() -> None:
    spec = ModelSpec(model_id="m", image="i", dialects=(Dialect.EMBEDDINGS,))
    assert choose([spec]) is None


def test_opencode_is_told_limits_abilities_and_sampling_of_each_model() -> None:
    document = opencode()
    provider = document["provider"]["sparkd"]
    assert provider["npm"] == "@ai-sdk/openai-compatible"
    assert provider["options"]["baseURL"] == "http://127.0.0.1:8009/v1"
    assert provider["options"]["timeout"] is False
    for model_id, model in provider["models"].items():
        told = offer(MODELS[model_id], Client.OPENCODE)
        limit = {"context": told.context_tokens, "output": told.output_tokens}
        assert model["limit"] == limit
        assert (model["tool_call"], model["reasoning"]) == (told.tools, told.reasoning)
        assert ("image" in model.get("modalities", {}).get("input", [])) is told.vision
        assert model.get("options", {}) == dict(told.options)


def test_opencode_reads_the_key_from_the_environment() -> None:
    assert opencode()["provider"]["sparkd"]["options"]["apiKey"] == "{env:SPARKD_API_KEY}"


def test_a_model_whose_window_nobody_knows_is_told_without_limits() -> None:
    choice = choose([ModelSpec(model_id="m", image="i")])
    assert choice is not None
    for target in Target:
        assert "None" not in render(target, choice, GATEWAY)
        assert "null" not in render(target, choice, GATEWAY)


def test_cline_is_given_a_command_and_the_limits_of_each_model() -> None:
    lines = written(Target.CLINE).splitlines()
    (command,) = [line for line in lines if not line.startswith("#")]
    words = shlex.split(command)
    assert words[:4] == ["cline", "auth", "--provider", "openai-compatible"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--baseurl"] == "http://127.0.0.1:8009/v1"
    assert options["--modelid"] == chosen().main.model_id
    rows = {words[1]: words for words in (line.split() for line in lines) if words[1:]}
    for spec in chosen().models:
        told = offer(spec, Client.CLINE)
        assert rows[spec.model_id][2:6] == [
            "context",
            str(told.context_tokens),
            "output",
            str(told.output_tokens),
        ]


def test_continue_is_told_limits_and_abilities_of_each_model() -> None:
    document = yaml.safe_load(written(Target.CONTINUE))
    assert document["schema"] == "v1"
    assert document["models"][0]["model"] == chosen().main.model_id
    by_id = {model["model"]: model for model in document["models"]}
    assert len(by_id) == len(document["models"]) == len(chosen().models)
    for spec in chosen().models:
        told, model = offer(spec, Client.ALL), by_id[spec.model_id]
        assert model["apiBase"] == "http://127.0.0.1:8009/v1"
        assert model["defaultCompletionOptions"]["contextLength"] == told.context_tokens
        assert model["defaultCompletionOptions"]["maxTokens"] == told.output_tokens
        assert ("tool_use" in model["capabilities"]) is told.tools
        assert ("image_input" in model["capabilities"]) is told.vision


def test_shell_and_open_webui_get_variables_that_a_shell_and_podman_can_read() -> None:
    env = [shlex.split(line) for line in written(Target.ENV).splitlines()]
    assert {words[0] for words in env} == {"export"}
    assert ["export", "ANTHROPIC_BASE_URL=http://127.0.0.1:8009"] in env
    assert ["export", "OPENAI_BASE_URL=http://127.0.0.1:8009/v1"] in env
    lines = [line for line in written(Target.OPENWEBUI).splitlines() if not line.startswith("#")]
    assert "OPENAI_API_BASE_URL=http://127.0.0.1:8009/v1" in lines
    assert f"TASK_MODEL_EXTERNAL={chosen().small.model_id}" in lines


@targets
def test_the_key_is_written_down_only_when_it_is_given(target: Target) -> None:
    without, with_key = written(target), written(target, key=KEY)
    assert KEY not in without
    assert KEY in with_key
    assert KEY_PLACEHOLDER not in with_key
    assert "SPARKD_API_KEY" not in with_key


@pytest.mark.parametrize(
    "text", ["http://spark:8009", "http://spark:8009/", "http://spark:8009/v1", "https://spark"]
)
def test_an_address_may_end_in_what_clients_add(text: str) -> None:
    assert checked_url(text) in ("http://spark:8009", "https://spark")


@pytest.mark.parametrize("text", ["spark:8009", "ftp://spark", "http://", "http://spark/llm"])
def test_what_is_no_address_of_a_gateway_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not the address"):
        checked_url(text)


def test_models_and_flags_of_integrate_are_read() -> None:
    options = parse(["integrate", "env", "a", "b", "--with-key", "--url", "http://x"])
    assert (options.client, options.models) == ("env", ("a", "b"))
    assert (options.with_key, options.url) == (True, "http://x")
    assert parse(["integrate", "cline"]).models == ()
    with pytest.raises(UsageError):
        parse(["integrate", "emacs"])


if __name__ == "__main__":
    DOCUMENT.write_text(documented())


@targets
def test_client_for_an_adapter_is_told_of_the_adapter_and_not_of_its_model(target: Target) -> None:
    adapter = Adapter(name="sql-lora", weights=Weights(path=Path("/a")))
    base = replace(MODELS["gpt-oss-20b"], model_id="base-model", adapters=(adapter,))
    assert served_as(base, "base-model") is base
    choice = choose([base], [served_as(base, "sql-lora")])
    assert choice is not None
    text = render(target, choice, GATEWAY)
    assert "sql-lora" in text
    assert "base-model" not in text
