# SPDX-License-Identifier: Apache-2.0
"""The shipped catalog does what the stack it was carried over from did, but for listed corrections.

Facts of that stack are in tests/vectors/catalog-reference.json, corrections with their reasons in
tests/vectors/catalog-corrections.yaml. Both sides are brought into one form, field by field, the
command line option by option from what `sparkctl show` prints; then they must be equal.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
import yaml

from sparkd.adapters.files.records import Loads
from sparkd.core.clients.programs import is_offered, offer
from sparkd.core.config.load import Source, SourceKind, parse
from sparkd.core.container.podman_cli import podman_create
from sparkd.core.container.spec import INSIDE_ENDPOINT, LOGGING_ARGS, container_spec, lock_command
from sparkd.core.model import Client, HostFile, ModelSpec, Rewrite, Status, Transport
from sparkd.core.names import Layout
from sparkd.core.scheduling.memory import HostMemory
from sparkd.sparkctl.commands import show
from tests.unit.project.sources import ROOT

VECTORS = ROOT / "tests/vectors"
REFERENCE = {
    model["id"]: model
    for model in json.loads((VECTORS / "catalog-reference.json").read_text())["models"]
}
CORRECTIONS = yaml.safe_load((VECTORS / "catalog-corrections.yaml").read_text())
CATALOG = parse(
    [
        Source(kind=SourceKind.MODELS, name=str(path), text=path.read_text())
        for path in sorted((ROOT / "etc/models.d").glob("*.yaml"))
    ]
)
MODELS = CATALOG.models
OWN_ENVIRONMENT = {
    name for name, _ in container_spec(ModelSpec(model_id="m", image="i"), Layout()).environment
}
GIB = 1 << 30
SPARK = HostMemory(total_bytes=120 * GIB, available_bytes=112 * GIB, reserve_bytes=4 * GIB)
models = pytest.mark.parametrize("model_id", sorted(REFERENCE))

Record = dict[str, Any]


# --- both sides in one form ---


def options(words: list[str]) -> dict[str, str | bool]:
    """The options of a command line, in vLLM's spelling; a switch is true."""
    found: dict[str, str | bool] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            name = option.replace("_", "-")
            assert name not in found, f"{name} is in the file twice"
            found[name] = value if equals else True
        elif name:
            assert found[name] is True, f"what is {word!r}?"
            found[name] = word
    return found


def server_command(spec: ModelSpec) -> list[str]:
    """What the container runs once it holds its locks, as `sparkctl show` prints it."""
    printed = show.command_text(podman_create(derived(spec).container))
    words = shlex.split(printed.replace("\\\n", ""))
    # The entry point, flock, is an option of podman's; behind the image stands the rest.
    command = ["flock", *words[words.index(spec.image) + 1 :]]
    locks = list(lock_command(spec.lifecycle))
    assert command[: len(locks)] == locks
    return command[len(locks) :]


def derived(spec: ModelSpec) -> show.Shown:
    return show.derive(spec, Layout(), SPARK, Loads())


def program(words: list[str], served: str) -> str:
    """What stands before the first option, without the model."""
    first = next(i for i, word in enumerate(words) if word.startswith("--"))
    return " ".join(word for word in words[:first] if word != served)


def decided(field: str) -> set[str]:
    """What is decided once and not by entries, by the corrections."""
    return {
        name
        for rule in CORRECTIONS["everywhere"]
        if rule["field"] == field
        for name in rule["names"]
    }


def before(model: Record) -> Record:
    """The reference's side of one model, with what holds for all models taken out."""
    image = CORRECTIONS["images"][model["image"] or "none"]
    gone = set(CORRECTIONS["gone"]["names"]) if image == CORRECTIONS["gone"]["image"] else set()
    words = program(model["command"], model["weights"])
    args = options(model["command"])
    volumes = [volume.split(":") for volume in model["volumes"]]
    context = model.get("context") or args.get("--max-model-len")
    return {
        "weights": model["weights"],
        "image": image,
        "engine": model["engine"],
        "program": "vllm serve" if words in decided("program") else words,
        "args": {name: value for name, value in args.items() if name not in decided("args")},
        "env": {
            name: value for name, value in model["env"].items() if name not in decided("env") | gone
        },
        "files": {
            volume[1]: volume[0]
            for volume in volumes
            if not volume[0].startswith(tuple(decided("volumes")))
        },
        "devices": {device.split(":")[0]: device.split(":")[1] for device in model["devices"]},
        "shm_gib": int(model["shm_size"].removesuffix("g")),
        "load_timeout_s": int(model["start_period"].removesuffix("s")),
        "lifecycle": model["lifecycle"],
        "context": int(str(context)),
        "rewrite": rules_before(model),
        "context_buffer": 4096 if model.get("buffer_4096") else None,
        "status": status_before(model),
        "vision": model.get("multimodal"),
        "opencode": model.get("opencode", {}),
        "cline": model.get("cline"),
    }


def rules_before(model: Record) -> set[str]:
    """Which rules its requests went through; where no data said so, parts of its id did."""
    rules = {"cap_tokens"}
    if "profile" in model:
        strip = model["profile"] in ("small-no-tools", "vl") or model["tools"] == "none"
        force = model["profile"] == "coder-force-tools" or model["tools"] == "force-required"
        text = model["normalize_text_content"] and not model["multimodal"]
    else:
        strip = re.search("270m|1[.]5b|qwen-math|-vl", model["id"]) is not None
        force = re.search("qwen3-coder|qwen2[.]5-coder", model["id"]) is not None
        text = "qwen3-next" in model["id"] and "-vl" not in model["id"]
    conditions = {
        "strip_tools": strip,
        "force_tools": force,
        "text_content": text,
        "role_alternation": model.get("role_alternation"),
        "strict_tool_wording": model.get("llama_tool_wording"),
        "thinking_flag": model.get("binary_reasoning_effort"),
        "binary_reasoning_effort": model.get("binary_reasoning_effort"),
        "default_non_thinking": model.get("default_non_thinking"),
    }
    return rules | {rule for rule, holds in conditions.items() if holds}


def status_before(model: Record) -> str:
    if not model["served"]:
        return "disabled"
    return "experimental" if model["experimental"] else "validated"


def here(spec: ModelSpec, like: Record) -> Record:
    """Our side, from the container that would be created and from what clients are told.

    What the reference says nothing of (`like`) is not compared.
    """
    container = container_spec(spec, Layout(), port=40000)
    words = server_command(spec)
    args = options(words)
    ours = {"--uds", *LOGGING_ARGS} if spec.engine is None else set()
    inside = f"/models/{spec.model_id}"
    return {
        "weights": spec.weights.repo if spec.weights else None,
        "image": container.image,
        "engine": "sglang" if spec.engine else "vllm",
        "program": program(words, inside),
        "args": {name: v for name, v in args.items() if name not in decided("args") | ours},
        "env": {
            name: value for name, value in container.environment if name not in OWN_ENVIRONMENT
        },
        "files": {file.target: origin(file) for file in spec.files},
        "devices": {name: name for name in container.devices if name != "nvidia.com/gpu=all"},
        "shm_gib": container.shm_bytes / (1 << 30),
        "load_timeout_s": spec.load_timeout_s,
        "lifecycle": spec.lifecycle,
        "context": spec.max_model_len,
        "rewrite": set(spec.rewrite),
        "context_buffer": spec.context_buffer_tokens,
        "status": spec.status,
        "vision": spec.vision if like["vision"] is not None else None,
        "opencode": told_opencode(spec, like["opencode"]),
        "cline": offer(spec, Client.CLINE).context_tokens if like["cline"] else None,
    }


def origin(file: HostFile) -> str:
    if file.url:
        return f"sha256:{file.sha256}"
    return f"{file.repo} {file.file}" if file.repo else str(file.path)


def told_opencode(spec: ModelSpec, like: Record) -> Record:
    """In OpenCode's words; flags that are not set are left out, as its configurations do."""
    if not like:
        return {}
    told = offer(spec, Client.OPENCODE)
    limits: Record = {"context": told.context_tokens, "output": told.output_tokens}
    if "name" not in like:
        return limits
    flags = {
        "reasoning": told.reasoning,
        "tool_call": told.tools,
        "experimental": told.experimental,
        "options": dict(told.options),
    }
    return {"name": told.title, **limits, **{name: value for name, value in flags.items() if value}}


def corrected(model_id: str, record: Record) -> Record:
    """The record with the corrections of this model; each must find what it says was there."""
    for one in CORRECTIONS["models"]:
        if model_id not in one["models"]:
            continue
        assert one["before"] != one["here"], one
        values, name = (record[one["field"]], one["item"]) if "item" in one else (record, "")
        name = name or one["field"]
        assert values.get(name) == one["before"], one
        if one["here"] is None and "item" in one:
            del values[name]
        else:
            values[name] = one["here"]
    return record


# --- the promises ---


def test_catalog_has_every_model_and_no_other() -> None:
    assert CATALOG.problems == ()
    assert set(MODELS) == set(REFERENCE)
    assert len(MODELS) == 53
    assert not set(CORRECTIONS["phantoms"]["names"]) & set(MODELS)


@models
def test_model_differs_from_the_reference_by_its_listed_corrections_only(model_id: str) -> None:
    expected = before(REFERENCE[model_id])
    found = here(MODELS[model_id], expected)
    assert found == corrected(model_id, expected)


@pytest.mark.parametrize("one", CORRECTIONS["models"], ids=lambda one: str(one.get("item")))
def test_correction_names_models_that_there_are(one: Record) -> None:
    assert set(one["models"]) <= set(REFERENCE)
    assert {*one, "item"} == {"models", "field", "item", "before", "here", "reason"}


def test_rules_for_every_model_are_each_of_use() -> None:
    words = {program(model["command"], model["weights"]) for model in REFERENCE.values()}
    used = {
        "program": words,
        "args": {name for m in REFERENCE.values() for name in options(m["command"])},
        "env": {name for model in REFERENCE.values() for name in model["env"]},
    }
    for field, names in used.items():
        assert decided(field) <= names
    volumes = [volume for model in REFERENCE.values() for volume in model["volumes"]]
    for prefix in decided("volumes"):
        assert any(volume.startswith(prefix) for volume in volumes)
    images = {model["image"] or "none" for model in REFERENCE.values()}
    assert set(CORRECTIONS["images"]) == images
    general = [
        model
        for model in REFERENCE.values()
        if CORRECTIONS["images"][model["image"] or "none"] == CORRECTIONS["gone"]["image"]
    ]
    gone = {name for model in general for name in model["env"]}
    assert set(CORRECTIONS["gone"]["names"]) <= gone


@models
def test_nobody_reports_use_logs_prompts_or_holds_a_key(model_id: str) -> None:
    container = container_spec(MODELS[model_id], Layout(), port=40000)
    environment = dict(container.environment)
    assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == "1"
    assert not [name for name in environment if re.search("API_KEY|_TOKEN$", name)]
    args = options(server_command(MODELS[model_id]))
    assert not {"--api-key", "--enable-log-requests", "--disable-log-stats"} & set(args)


@models
def test_entries_leave_alone_what_sparkd_decides_about_the_environment(model_id: str) -> None:
    assert not {name for name, _ in MODELS[model_id].env} & OWN_ENVIRONMENT


@models
def test_model_is_reached_by_a_socket_that_only_sparkd_sees_unless_its_server_has_none(
    model_id: str,
) -> None:
    spec = MODELS[model_id]
    container = container_spec(spec, Layout(), port=40000)
    if spec.engine is None:
        assert str(INSIDE_ENDPOINT / "api.sock") in container.command
        assert not container.network
        assert container.publish_port is None
    else:
        assert spec.transport is Transport.TCP
        assert any("unix sockets" in fact for fact in spec.facts)


@models
def test_status_has_a_reason_and_a_listing_has_a_name(model_id: str) -> None:
    spec = MODELS[model_id]
    assert spec.reason
    assert spec.title
    assert spec.description
    assert not [text for text in (spec.reason, spec.description, *spec.facts) if "\n" in text]


def test_names_in_menus_are_unique() -> None:
    titles = [spec.title for spec in MODELS.values()]
    assert len(set(titles)) == len(titles)


def test_what_is_disabled_or_manual_is_not_offered() -> None:
    offered = {model_id for model_id, spec in MODELS.items() if is_offered(spec)}
    held = {Status.MANUAL, Status.DISABLED}
    assert offered == {model_id for model_id, spec in MODELS.items() if spec.status not in held}


def test_there_is_one_utility_and_it_is_validated() -> None:
    (utility,) = [spec for spec in MODELS.values() if spec.lifecycle == "utility"]
    assert utility.status is Status.VALIDATED


@models
def test_every_request_is_capped_by_the_window_that_is_served(model_id: str) -> None:
    spec = MODELS[model_id]
    args = options(server_command(spec))
    served = args.get("--max-model-len") or args.get("--context-length")
    assert str(spec.max_model_len) == served
    assert Rewrite.CAP_TOKENS in spec.rewrite


@models
def test_show_says_what_a_start_would_do(model_id: str) -> None:
    spec = MODELS[model_id]
    shown = derived(spec)
    told: Any = show.as_json(shown)
    assert told["command"] == list(container_spec(spec, Layout(), port=40000).command)
    assert told["rewrite"] == list(spec.rewrite)
    assert told["facts"] == list(spec.facts)
    assert json.loads(json.dumps(told)) == told
    text = show.text(shown)
    assert f"{spec.status}: {spec.reason}" in text
    assert all(fact in text for fact in spec.facts)
    for rule in spec.rewrite:
        assert rule in text


@models
def test_every_model_says_what_it_needs_and_fits_into_a_spark(model_id: str) -> None:
    told: Any = show.as_json(derived(MODELS[model_id]))
    assert told["memory"]["needs_bytes"]
    assert told["memory"]["fits"] == "now"
