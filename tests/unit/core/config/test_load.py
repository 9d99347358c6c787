# SPDX-License-Identifier: Apache-2.0
"""The configuration: what is accepted, what is refused with which words, which file wins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.config.kinds import Key
from sparkd.core.config.load import Source, SourceKind, default_text, parse
from sparkd.core.config.model_keys import MODEL_KEYS
from sparkd.core.config.model_subkeys import (
    CLIENT_KEYS,
    ENGINE_KEYS,
    FILE_KEYS,
    RESERVED_ARGS,
    RESERVED_ENV,
    WEIGHTS_KEYS,
)
from sparkd.core.config.settings_keys import SETTINGS_KEYS
from sparkd.core.config.yaml_nodes import LOADER, Loader, compose
from sparkd.core.model import (
    Client,
    ClientLimits,
    Config,
    Dialect,
    Engine,
    HostFile,
    Lifecycle,
    ModelSpec,
    Problem,
    Rewrite,
    Settings,
    Status,
    Transport,
    Weights,
)

SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
REPO = Path(__file__).resolve().parents[4]


def settings_of(text: str) -> Config:
    return parse([Source(kind=SourceKind.SETTINGS, name="sparkd.yaml", text=text)])


def catalog(name: str, text: str, layer: int = 0) -> Source:
    return Source(kind=SourceKind.MODELS, name=name, text=text, layer=layer)


def models_of(text: str) -> Config:
    return parse([catalog("m.yaml", text)])


def entry(body: str) -> Config:
    """A catalog of one model `m` with an image and the given keys, one a line."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return models_of(f"models:\n  m:\n    image: localhost/x\n{lines}\n")


def spec(body: str) -> ModelSpec:
    config = entry(body)
    assert not config.problems
    return config.models["m"]


def problem(config: Config) -> Problem:
    (found,) = config.problems
    return found


# --- the tables, the documents and the dataclasses agree ---


def test_every_settings_key_fills_a_field_of_its_own() -> None:
    filled = [key.field for key in SETTINGS_KEYS.values()]
    assert len(set(filled)) == len(filled)
    assert set(filled) <= {spec.name for spec in fields(Settings)}


def test_every_field_of_a_model_has_a_key() -> None:
    not_written = {"model_id", "family", "source"}
    filled = {key.field for key in MODEL_KEYS.values()} - {"masked"}
    assert filled == {spec.name for spec in fields(ModelSpec)} - not_written
    assert {key.field for key in WEIGHTS_KEYS.values()} == {s.name for s in fields(Weights)}
    assert {key.field for key in ENGINE_KEYS.values()} == {s.name for s in fields(Engine)}
    assert {key.field for key in CLIENT_KEYS.values()} == {s.name for s in fields(ClientLimits)}
    assert {*(key.field for key in FILE_KEYS.values()), "target"} == {
        s.name for s in fields(HostFile)
    }


def test_models_inherit_the_defaults_that_settings_document() -> None:
    for name in ("idle_timeout_s", "load_timeout_s", "stop_grace_s"):
        assert getattr(ModelSpec(model_id="m", image="x"), name) == getattr(Settings(), name)


def test_commented_example_holds_every_key_with_its_true_default() -> None:
    text = (REPO / "etc/sparkd.yaml").read_text()
    uncommented = re.sub(r"(?m)^#(\w+:)", r"\1", text)
    assert list(yaml.safe_load(uncommented)) == list(SETTINGS_KEYS)
    config = settings_of(uncommented)
    assert not config.problems
    assert config.settings == Settings()
    assert yaml.safe_load(text) is None, "every key of the example is commented out"


def test_commented_example_tells_meaning_and_range_of_each_key() -> None:
    text = (REPO / "etc/sparkd.yaml").read_text()
    prose = " ".join(line.removeprefix("# ") for line in text.splitlines())
    for key in SETTINGS_KEYS.values():
        default = default_text(key, Settings).strip("`")
        assert f"{key.doc} Range: {key.kind.limits}. #{key.name}: {default}" in prose


def documented_row(key: Key, owner: type[Settings | ModelSpec]) -> str:
    limits = key.kind.limits or "any"
    default = default_text(key, owner)
    return f"| `{key.name}` | {key.kind.wanted} | {default} | {limits} | {key.doc} |"


def test_reference_documents_exactly_the_rows_of_the_tables() -> None:
    text = (REPO / "docs/reference/configuration.md").read_text()
    documented = [line for line in text.splitlines() if re.match(r"\| `\w+` \|.*\|.*\|.*\|", line)]
    assert documented == [
        *(documented_row(key, Settings) for key in SETTINGS_KEYS.values()),
        *(documented_row(key, ModelSpec) for key in MODEL_KEYS.values()),
        *(documented_row(key, ModelSpec) for key in WEIGHTS_KEYS.values()),
        *(documented_row(key, ModelSpec) for key in ENGINE_KEYS.values()),
        *(documented_row(key, ModelSpec) for key in FILE_KEYS.values()),
        *(documented_row(key, ModelSpec) for key in CLIENT_KEYS.values()),
    ]


def test_reference_names_every_argument_that_is_refused() -> None:
    text = (REPO / "docs/reference/configuration.md").read_text()
    section = text.partition("### args that sparkd decides")[2].partition("##")[0]
    assert {f"--{name}" for name in RESERVED_ARGS} == set(re.findall(r"`(--[a-z-]+)`", section))
    assert set(RESERVED_ENV) == set(re.findall(r"`([A-Z_]+)`", section))


def test_example_in_the_reference_parses() -> None:
    text = (REPO / "docs/reference/configuration.md").read_text()
    (example,) = re.findall(r"(?s)```yaml\n(.*?)```", text)
    config = models_of(example)
    assert not config.problems
    assert config.models["small-model"].max_model_len == 8192


def test_shipped_catalog_parses_without_a_problem() -> None:
    files = sorted((REPO / "etc/models.d").glob("*.yaml"))
    config = parse([catalog(file.name, file.read_text()) for file in files])
    assert not config.problems
    assert {"gpt-oss-20b", "gpt-oss-120b"} <= set(config.models)
    oss = config.models["gpt-oss-20b"]
    assert oss.weights
    assert oss.weights.path == Path("/var/lib/sparkd/models/openai--gpt-oss-20b")
    assert oss.max_model_len == 131072
    assert oss.args[oss.args.index("--gpu-memory-utilization") + 1] == "0.70"


def test_client_limits_are_held_against_no_window_that_nobody_knows() -> None:
    limits = dict(spec("clients: {all: {context: 9000, output: 10}, cline: {output: 7}}").clients)
    assert limits[Client.ALL] == ClientLimits(context_tokens=9000, output_tokens=10)
    assert limits[Client.CLINE] == ClientLimits(output_tokens=7)


def test_vllm_may_be_named() -> None:
    assert spec("engine: vllm").engine is None


# --- sparkd.yaml ---


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~"])
def test_empty_files_mean_defaults_and_no_models(text: str) -> None:
    config = parse([Source(kind=SourceKind.SETTINGS, name="s", text=text), catalog("m.yaml", text)])
    assert config == Config()


def test_settings_are_read_in_seconds_and_bytes() -> None:
    config = settings_of("idle_exit: 5s\ndrain_timeout: 0s\nbody_limit: 1MiB\n")
    assert config.settings == Settings(idle_exit_s=5, drain_timeout_s=0, body_limit_bytes=1 << 20)
    assert config.settings_ok


def test_all_problems_of_all_files_come_in_one_run_with_file_and_line() -> None:
    config = parse(
        [
            Source(kind=SourceKind.SETTINGS, name="s.yaml", text="idle-exit: 5s\nbody_limit: 5\n"),
            catalog("a.yaml", "models:\n  a:\n    imag: localhost/x\n    gpu: two\n"),
            catalog("b.yaml", "models: [\n"),
            catalog("c.yaml", "models:\n  c: {image: localhost/x}\n"),
        ]
    )
    assert [(p.source, p.line, p.path) for p in config.problems] == [
        ("s.yaml", 1, "idle-exit"),
        ("s.yaml", 2, "body_limit"),
        ("a.yaml", 2, "models.a"),
        ("a.yaml", 3, "models.a.imag"),
        ("a.yaml", 4, "models.a.gpu"),
        ("b.yaml", 2, ""),
    ]
    assert list(config.models) == ["c"]
    assert list(config.broken) == ["a"]


def test_broken_settings_leave_all_defaults_and_say_so() -> None:
    config = parse(
        [
            Source(kind=SourceKind.SETTINGS, name="s", text="idle_timeout: 5s\nbody_limit: 9TiB"),
            catalog("m.yaml", "models: {m: {image: localhost/x}}"),
        ]
    )
    assert not config.settings_ok
    assert config.settings == Settings()
    assert config.models["m"].idle_timeout_s == Settings().idle_timeout_s


def test_problem_in_the_catalog_leaves_settings_as_they_are() -> None:
    config = parse(
        [
            Source(kind=SourceKind.SETTINGS, name="s", text="idle_exit: 5s"),
            catalog("m.yaml", "nonsense"),
        ]
    )
    assert config.settings_ok
    assert config.settings.idle_exit_s == 5


def test_unreadable_source_is_reported_as_it_came() -> None:
    trouble = Problem(source="s", line=1, path="", message="cannot be read")
    config = parse([Source(kind=SourceKind.SETTINGS, name="s", unreadable=trouble)])
    assert config.problems == (trouble,)
    assert not config.settings_ok


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("idle_exti: 5s", "unknown key 'idle_exti'", "did you mean idle_exit?"),
        ("zzz: 5s", "unknown key 'zzz'", "known here: abandoned_loads, bodies_limit, "),
        ("idle_exit: 60", "'60' is not a duration", "a unit is missing: 60s"),
        ("idle_exit: [5s]", "wanted a duration, found a list", ""),
        ("idle_exit:", "wanted a duration, found nothing", ""),
        ("idle_exit: 25h", "'25h' is out of range", "1s to 24h"),
        ("idle_exit: 500ms", "'500ms' is out of range", "1s to 24h"),
        ("body_limit: 64MB", "'64MB' is not a size", "64MiB"),
        ("body_limit: {a: b}", "wanted a size, found a mapping", ""),
        ("body_limit: 2GiB", "'2GiB' is out of range", "1KiB to 1GiB"),
        ("[a]", "wanted a mapping (key: value), found a list", ""),
        ("just text", "wanted a mapping (key: value), found text 'just text'", ""),
        ("!!set {a}", "found the unsupported tag 'tag:yaml.org,2002:set'", ""),
        ("idle_exit: !x 5s", "found the unsupported tag '!x'", ""),
        ("[a, b]: c", "wanted a name as key, found a list", ""),
        ("!x a: c", "wanted a name as key, found the unsupported tag '!x'", ""),
        ("<<: {idle_exit: 5s}", "merge keys (<<) are not supported", "defaults:"),
    ],
)
def test_wrong_setting_says_value_and_remedy(text: str, message: str, hint: str) -> None:
    found = problem(settings_of(text))
    assert message in found.message
    assert hint in found.hint
    assert str(found).startswith("sparkd.yaml:1: ")


def test_key_that_stands_twice_is_a_problem_that_names_both_lines() -> None:
    found = problem(settings_of("idle_exit: 5s\n\nidle_exit: 6s\n"))
    assert (found.line, found.path) == (3, "idle_exit")
    assert "first in line 1" in found.message


def test_long_values_are_quoted_short() -> None:
    assert len(problem(settings_of("x" * 5000)).message) < 150


# --- YAML itself ---


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: [1,\n", 3, "not valid YAML"),
        ("a: 1\n  b: 2\n", 2, "not valid YAML: mapping values are not allowed"),
        ("a: 'x\n", 2, "not valid YAML: found unexpected end of stream"),
        ("a: *none\n", 1, "not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "expected a single document"),
        ("a: 1\nb: \x07\n", 2, "not text: control character U+0007"),
        ("a: 1\nb: \ud800\n", 2, "not text: control character U+D800"),
        ("a: %x", 1, "not valid YAML: found character that cannot start any token"),
        ("a: &a\n  b: *a\n", 2, "alias *a contains itself"),
        ("[" * 200_000, 1, "nested deeper than 32 levels"),
        ("- " * 200_000, 1, "nested deeper than 32 levels"),
    ],
)
def test_file_that_is_no_good_yaml_is_one_problem_with_its_line(
    text: str, line: int, message: str
) -> None:
    config = models_of(text)
    assert message in problem(config).message
    assert problem(config).line == line


def test_syntax_error_names_where_its_context_began() -> None:
    assert "of line 1" in problem(models_of("a: 'x\n\n\n")).message


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: [1, *none]\n",
        "a: 1\n---\nb: 2\n",
        "a: &a\n  - *a\n",
        "a:\n - &x {b: 1, b: 2}\n - *x\n",
        "[" * 100,
        "\ufeffa: 1\nb: 'x'\nc: ~\nd: 010\n",
    ],
)
def test_pure_python_loader_finds_the_same_nodes_on_the_same_lines(text: str) -> None:
    def reading(loader: Loader) -> tuple[object, list[int]]:
        problems: list[Problem] = []
        top = compose(text, "f", problems, loader)
        found = [(name, at.line, at.found) for name, at in top.entries()] if top else None
        return found, [one.line for one in problems]

    assert reading(yaml.SafeLoader) == reading(LOADER)


def test_tab_as_indentation_is_explained() -> None:
    assert "not tabs" in problem(models_of("models:\n\tm: {}\n")).hint


def test_billion_laughs_is_refused_before_it_is_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    found = problem(models_of("\n".join(lines)))
    assert "more than 100000 values" in found.message
    assert found.line == 5


def test_plain_aliases_are_read_and_report_where_they_are_used() -> None:
    config = models_of(
        "models:\n"
        "  a: {image: &image localhost/x, args: &args [--a, 1]}\n"
        "  b: {image: *image, args: *args}\n"
        "  c: {image: *image, gpu: *image}\n"
    )
    assert config.models["b"].image == "localhost/x"
    assert config.models["b"].args == ("--a", "1")
    assert problem(config).line == 4


@given(st.text(max_size=60))
def test_no_text_makes_the_parser_raise(text: str) -> None:
    for config in (settings_of(text), models_of(text), models_of(f"models: {{m: {text}}}")):
        assert isinstance(config, Config)


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*MODEL_KEYS, *WEIGHTS_KEYS, "x"]), inner, max_size=4),
    max_leaves=12,
)


@given(YAML_VALUES)
def test_any_entry_is_either_served_or_broken_with_a_reason(value: object) -> None:
    config = models_of(yaml.safe_dump({"models": {"m": value}}))
    masked = isinstance(value, dict) and value.get("masked") is True
    assert ("m" in config.models) + ("m" in config.broken) == (0 if masked else 1)
    assert bool(config.broken) == bool(config.problems)


# --- entries ---


def test_entry_with_an_image_alone_has_all_defaults() -> None:
    assert spec("") == ModelSpec(model_id="m", image="localhost/x", family="m", source="m.yaml:2")


def test_every_key_of_an_entry_arrives_in_its_unit() -> None:
    found = spec(
        "weights: {path: /srv/w}\n"
        "lifecycle: utility\n"
        "gpu: 0\n"
        "engine: {command: [serve, '{weights}', --port, '{port}'], health: /ready}\n"
        "files:\n"
        "  /media: {path: /srv/media}\n"
        f"  /t/a.tiktoken: {{url: 'https://h/a', sha256: {SHA256}}}\n"
        "  /t/b.jinja: {repo: o/n, file: sub/b.jinja}\n"
        "args: [--a, 1, 0.80, true, 2024-01-01, '', '=']\n"
        "env: {B: 2, A: yes, NO: 'x'}\n"
        "dialects: [embeddings, score]\n"
        "max_model_len: 131_072\n"
        "rewrite: [cap_tokens_by_estimate, text_content]\n"
        "context_buffer: 4096\n"
        "transport: tcp\n"
        "network: on\n"
        "load_timeout: 1h30m\n"
        "idle_timeout: 90s\n"
        "stop_grace: 1m\n"
        "shm_size: 16GiB\n"
        "memory: 9GiB\n"
        "memory_max: 32GiB\n"
        "auto_utilization: true\n"
        "pinned: true\n"
        "status: manual\n"
        "reason: slow\n"
        "vision: true\n"
        "clients:\n"
        "  all: {context: 100000, output: 4096, options: {temperature: 1, top_p: 0.95}}\n"
        "  cline: {context: 131072}\n"
        "title: M\n"
        "facts: [one, 'two: 2']\n"
        "description: >\n"
        "  folded\n"
        "  line\n"
        "masked: false\n"
    )
    assert found == ModelSpec(
        model_id="m",
        image="localhost/x",
        lifecycle=Lifecycle.UTILITY,
        weights=Weights(path=Path("/srv/w")),
        args=("--a", "1", "0.80", "true", "2024-01-01", "", "="),
        env=(("A", "yes"), ("B", "2"), ("NO", "x")),
        gpu="0",
        engine=Engine(command=("serve", "{weights}", "--port", "{port}"), health="/ready"),
        files=(
            HostFile(target="/media", path=Path("/srv/media")),
            HostFile(target="/t/a.tiktoken", path=Path(SHA256), url="https://h/a", sha256=SHA256),
            HostFile(
                target="/t/b.jinja", path=Path("o--n/sub/b.jinja"), repo="o/n", file="sub/b.jinja"
            ),
        ),
        dialects=(Dialect.EMBEDDINGS, Dialect.SCORE),
        max_model_len=131072,
        rewrite=(Rewrite.CAP_TOKENS_BY_ESTIMATE, Rewrite.TEXT_CONTENT),
        context_buffer_tokens=4096,
        transport=Transport.TCP,
        network=True,
        load_timeout_s=5400,
        idle_timeout_s=90,
        stop_grace_s=60,
        shm_bytes=16 << 30,
        memory_bytes=9 << 30,
        memory_max_bytes=32 << 30,
        auto_utilization=True,
        pinned=True,
        status=Status.MANUAL,
        reason="slow",
        vision=True,
        clients=(
            (
                Client.ALL,
                ClientLimits(
                    context_tokens=100000,
                    output_tokens=4096,
                    options=(("temperature", 1), ("top_p", 0.95)),
                ),
            ),
            (Client.CLINE, ClientLimits(context_tokens=131072)),
        ),
        title="M",
        facts=("one", "two: 2"),
        description="folded line",
        family="m",
        source="m.yaml:2",
    )


def test_models_that_set_no_times_take_those_of_the_settings() -> None:
    config = parse(
        [
            Source(
                kind=SourceKind.SETTINGS,
                name="s",
                text="idle_timeout: 5s\nload_timeout: 6s\nstop_grace: 7s",
            ),
            catalog("m.yaml", "models: {m: {image: localhost/x, stop_grace: 8s}}"),
        ]
    )
    found = config.models["m"]
    assert (found.idle_timeout_s, found.load_timeout_s, found.stop_grace_s) == (5, 6, 8)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("none", None),
        ("{path: /srv/w/}", Weights(path=Path("/srv/w"))),
        ("{repo: org/name}", Weights(path=Path("/w/org--name"), repo="org/name")),
        (
            "{repo: org/name, revision: v1, path: /srv/w}",
            Weights(path=Path("/srv/w"), repo="org/name", revision="v1"),
        ),
    ],
)
def test_weights_resolve_to_a_directory(weights: str, expected: Weights | None) -> None:
    text = f"models: {{m: {{image: localhost/x, weights: {weights}}}}}"
    config = parse([catalog("m.yaml", text)], weights_dir=Path("/w"))
    assert config.models["m"].weights == expected


@pytest.mark.parametrize("gpu", ["all", "0", '"0"', "0:1", "GPU-8b1c", "MIG-8b1c-3"])
def test_gpu_is_a_cdi_device(gpu: str) -> None:
    assert spec(f"gpu: {gpu}").gpu == gpu.strip('"')


def test_none_means_no_gpu_and_no_memory_limit() -> None:
    assert spec("gpu: none").gpu is None
    assert spec("memory_max: none").memory_max_bytes is None


@pytest.mark.parametrize(
    "image",
    [
        "localhost/vllm:cu131",
        "localhost:5000/a",
        "registry:5000/a/b_c.d-e",
        "nvcr.io/nvidia/vllm:25.10-py3@sha256:" + "0" * 64,
    ],
)
def test_full_image_names_are_taken(image: str) -> None:
    assert models_of(f"models: {{m: {{image: '{image}'}}}}").models["m"].image == image


@pytest.mark.parametrize(
    "image", ["vllm", "org/vllm", "docker.io/", "docker.io/A", "a.b/c@sha256:1"]
)
def test_image_without_registry_or_with_odd_name_is_refused(image: str) -> None:
    found = problem(models_of(f"models: {{m: {{image: '{image}'}}}}"))
    assert found.message == f"'{image}' is not a full image name"
    assert "docker.io/ORG/NAME:TAG" in found.hint


@pytest.mark.parametrize(
    ("line", "path", "message", "hint"),
    [
        ("imgae: x", ".imgae", "unknown key 'imgae'", "did you mean image?"),
        ("idle-timeout: 5s", ".idle-timeout", "unknown key", "did you mean idle_timeout?"),
        ("lifecycle: exlusive", ".lifecycle", "is not one of", "did you mean exclusive?"),
        ("lifecycle: 5", ".lifecycle", "'5' is not one of utility, normal, exclusive", ""),
        ("lifecycle: []", ".lifecycle", "wanted one of utility, normal, exclusive", ""),
        ("gpu: no", ".gpu", "'no' is not a GPU", "all, none, or a device"),
        ("gpu:", ".gpu", "wanted a GPU, found nothing", ""),
        ("args: --a", ".args", "wanted a list, found text '--a'", "write [--a]"),
        ("args: {a: b}", ".args", "wanted a list, found a mapping", ""),
        ("args: [--a, ~]", ".args[1]", "found nothing '~'", 'write ""'),
        ("args: [[a]]", ".args[0]", "wanted text or a number, found a list", ""),
        ("args: ['--seqs 2']", ".args[0]", "'--seqs' and its value are one word", "--seqs=VALUE"),
        ("env: [A]", ".env", "wanted a mapping (key: value), found a list", ""),
        ("env: {A: }", ".env.A", "found nothing", 'write ""'),
        ("env: {1A: x}", ".env.1A", "'1A' is not a variable name", "letters"),
        ("env: {VLLM_API_KEY: x}", ".env.VLLM_API_KEY", "is decided by sparkd", "leave it out"),
        ("args: [--no-disable-log-stats]", ".args[0]", "is decided by sparkd", "leave it out"),
        ("engine: sglang", ".engine", "'sglang' is not vllm", "write engine: {command:"),
        ("engine: {}", ".engine", "no command is given", "add command"),
        ("engine: {command: [a], x: 1}", ".engine.x", "unknown key 'x'", "known here: command"),
        (
            "engine: {command: ['{uds}']}",
            ".engine.command[0]",
            "'{uds}' is not a placeholder",
            "known here: {model}, {port}, {socket}, {weights}",
        ),
        (
            "engine: {command: [serve, '{socket}'], health: ready now}",
            ".engine.health",
            "'ready now' is not a path",
            "write it like /health",
        ),
        (
            "engine: {command: [serve, --port, '{port}']}",
            "",
            "the command of engine lacks {socket}",
            "transport: tcp",
        ),
        (
            "engine: {command: [serve]}\ntransport: tcp",
            "",
            "the command of engine lacks {port}",
            "transport: unix",
        ),
        ("files: {media: {path: /srv}}", ".files.media", "'media' is not a path", "start with /"),
        ("files: {/a/: {path: /srv}}", ".files./a/", "'/a/' is not a path", "start with /"),
        ("files: {/a/../b: {path: /srv}}", ".files./a/../b", "is not a path", "start with /"),
        ("files: {/models/x: {path: /srv}}", ".files./models/x", "/models in the", "another"),
        ("files: {/tmp: {path: /srv}}", ".files./tmp", "/tmp in the container", "another path"),
        ("files: {/a: {}}", ".files./a", "found nothing", "sparkctl pull"),
        ("files: {/a: {url: 'https://h/a'}}", ".files./a", "found url", "sparkctl pull"),
        ("files: {/a: {path: /b, repo: o/n}}", ".files./a", "found path, repo", "sparkctl pull"),
        ("files: {/a: {path: b}}", ".files./a.path", "'b' is not an absolute path", "start"),
        ("files: {/a: {url: h}}", ".files./a.url", "is not an address", "https://"),
        ("files: {/a: /srv}", ".files./a", "wanted a mapping", ""),
        ("status: broken", ".status", "'broken' is not one of validated", ""),
        ("status: disabled", "", "it is disabled without a reason", "add reason"),
        ("status: manual", "", "it is manual without a reason", "add reason"),
        ("clients: {opncode: {}}", ".clients.opncode", "unknown client", "did you mean opencode?"),
        ("clients: {all: {ctx: 1}}", ".clients.all.ctx", "unknown key 'ctx'", "did you mean"),
        ("clients: {all: {context: 0}}", ".clients.all.context", "out of range", "1 to"),
        (
            "clients: {all: {options: {top_p: [1]}}}",
            ".clients.all.options.top_p",
            "wanted a number, found a list",
            "",
        ),
        (
            "clients: {all: {options: {top_p: high}}}",
            ".clients.all.options.top_p",
            "'high' is not a number",
            "write it like 0.95",
        ),
        (
            "max_model_len: 4096\nclients: {cline: {context: 8192}}",
            "",
            "client cline is told 8192 tokens, the context window has 4096",
            "make its context less",
        ),
        (
            "max_model_len: 4096\nclients: {all: {output: 4096}}",
            "",
            "client all may ask for 4096 of 4096 tokens",
            "make its output less",
        ),
        ("facts: one", ".facts", "wanted a list, found text 'one'", "write [one]"),
        ("facts: [{a: b}]", ".facts[0]", "wanted one line of text, found a mapping", ""),
        ("dialects: [chat, chta]", ".dialects[1]", "'chta' is not one of", "did you mean chat?"),
        ("dialects: [chat, chat]", ".dialects[1]", "'chat' is here twice", "keep one"),
        ("dialects: []", ".dialects", "the list is empty", "some of chat"),
        ("rewrite: [strip-tools]", ".rewrite[0]", "is not one of", "did you mean strip_tools?"),
        ("rewrite: strip_tools", ".rewrite", "wanted a list", "write [strip_tools]"),
        ("rewrite: [strip_tools, force_tools]", "", "undo each other", "keep one"),
        ("rewrite: [cap_tokens]", "", "needs the context window", "add max_model_len"),
        ("context_buffer: 5", "", "without cap_tokens_by_estimate says nothing", "leave it out"),
        (
            "max_model_len: 4096\nrewrite: [cap_tokens, cap_tokens_by_estimate]",
            "",
            "are two ways",
            "keep one of the two",
        ),
        ("context_buffer: -1", ".context_buffer", "'-1' is out of range", "0 to 100000000"),
        (
            "rewrite: [cap_tokens_by_estimate]\nmax_model_len: 4096\ncontext_buffer: 4096",
            "",
            "context_buffer 4096 leaves nothing of 4096 tokens",
            "make it less",
        ),
        ("max_model_len: '8'", ".max_model_len", "wanted a whole number, found text '8'", "digits"),
        ("max_model_len: 010", ".max_model_len", "found the number '010'", "digits"),
        ("max_model_len: 1:30", ".max_model_len", "found the number '1:30'", "digits"),
        ("max_model_len: 0", ".max_model_len", "'0' is out of range", "1 to 100000000"),
        ("network: 1", ".network", "wanted true or false, found the number '1'", ""),
        ("description: 5", ".description", "found the number '5'", 'quote it: "5"'),
        ("description: ''\nmasked: x", ".masked", "wanted true or false, found text 'x'", ""),
        ('description: "a\\nb"', ".description", "is not one line of text", ""),
        ("description: [a]", ".description", "wanted one line of text, found a list", ""),
        ("transport: ''", ".transport", "'' is not one of unix, tcp", ""),
        ("network: ''", ".network", "found an empty text", ""),
        ("weights: /srv/w", ".weights", "wanted none or a mapping", "{path: /srv/w}"),
        ("weights: org/name", ".weights", "wanted none or a mapping", "{repo: org/name}"),
        ("weights: [a]", ".weights", "found a list", ""),
        ("weights: {}", ".weights", "neither path nor repo", "add repo:"),
        ("weights: {path: /w, revision: a}", ".weights", "revision without a repo", "add repo:"),
        ("weights: {path: w}", ".weights.path", "'w' is not an absolute path", "start with /"),
        ("weights: {path: /a/../b}", ".weights.path", "is not an absolute path", "leave out"),
        ("weights: {repo: name}", ".weights.repo", "'name' is not a repository", "ORG/NAME"),
        (
            "weights: {repo: a/b, revision: 12}",
            ".weights.revision",
            "number '12'",
            'quote it: "12"',
        ),
        ("weights: {rpeo: a/b}", ".weights.rpeo", "unknown key 'rpeo'", "did you mean repo?"),
    ],
)
def test_wrong_key_of_an_entry_says_path_value_and_remedy(
    line: str, path: str, message: str, hint: str
) -> None:
    config = entry(line)
    found = problem(config)
    assert found.path == f"models.m{path}"
    assert message in found.message
    assert hint in found.hint
    assert config.broken == {"m": (found,)}
    assert not config.models


@pytest.mark.parametrize("name", RESERVED_ARGS)
@pytest.mark.parametrize("form", ["--{}", "--{}=planted", "--{} planted"])
def test_argument_that_sparkd_decides_is_refused_without_its_value(name: str, form: str) -> None:
    for spelling in (name, name.replace("-", "_"), name.upper()):
        found = problem(entry(f"args: ['{form.format(spelling)}']"))
        assert f"'--{spelling}' is decided by sparkd" in found.message
        assert found.hint
        assert "planted" not in str(found)


def test_values_of_arguments_and_variables_never_stand_in_a_message() -> None:
    config = entry("args: ['--key planted']\nenv: {VLLM_API_KEY: planted, 1x: planted}")
    assert len(config.problems) == 3
    assert not any("planted" in str(found) for found in config.problems)


@pytest.mark.parametrize(
    "arg", ["--portal", "--host-ip=1", "--model-impl", "port", '--json={"a": 1}', "a b"]
)
def test_argument_that_only_looks_alike_is_passed_on(arg: str) -> None:
    assert spec(f"args: ['{arg}']").args == (arg,)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("[--max-model-len, 8192]", 8192),
        ("[--max-model-len=8192]", 8192),
        ("[--max_model_len, 1, --max-model-len, 8192]", 8192),
        ("[--max-model-len, auto]", None),
        ("[--max-model-len]", None),
        ("[]", None),
    ],
)
def test_context_window_follows_args_unless_it_is_given(args: str, expected: int | None) -> None:
    assert spec(f"args: {args}").max_model_len == expected
    assert spec(f"args: {args}\nmax_model_len: 8192").max_model_len == 8192


def test_context_window_that_contradicts_args_is_a_problem() -> None:
    found = problem(entry("args: [--max-model-len, 8192]\nmax_model_len: 4096"))
    assert found.message == "max_model_len is 4096, but args say --max-model-len 8192"


def test_rules_of_the_defaults_can_be_taken_away() -> None:
    config = models_of(
        "defaults: {image: localhost/x, rewrite: [strip_tools]}\n"
        "models: {a: {}, b: {rewrite: []}, c: {rewrite: }}\n"
    )
    assert not config.problems
    rules = [config.models[model_id].rewrite for model_id in "abc"]
    assert rules == [(Rewrite.STRIP_TOOLS,), (), ()]


def test_cap_takes_the_context_window_from_args() -> None:
    assert spec("rewrite: [cap_tokens]\nargs: [--max-model-len, 8192]").max_model_len == 8192


def test_entry_without_image_is_broken_and_stops_no_other() -> None:
    config = models_of("models:\n  a:\n  b: {image: localhost/x}\n")
    assert problem(config).message == "no image is given"
    assert (problem(config).line, problem(config).path) == (2, "models.a")
    assert list(config.models) == ["b"]


@pytest.mark.parametrize("model_id", ["../x", "-x", '""', "a b", "x" * 129])
def test_name_that_cannot_be_a_model_is_a_problem(model_id: str) -> None:
    config = models_of(
        f"models:\n  ok: {{image: localhost/x}}\n  {model_id}: {{image: localhost/x}}\n"
    )
    assert "is not a model id" in problem(config).message
    assert problem(config).line == 3
    assert list(config.models) == ["ok"]


@pytest.mark.parametrize("model_id", ["2.5", "on", "1", "org/name", "qwen3.5-0.8b", "a:b+c_d"])
def test_model_id_is_taken_as_it_is_written(model_id: str) -> None:
    assert list(models_of(f"models: {{{model_id!s}: {{image: localhost/x}}}}").models) == [model_id]


def test_id_that_stands_twice_in_one_file_serves_neither() -> None:
    config = models_of(
        "models:\n  a: {image: localhost/one}\n  a: {image: localhost/two}\n"
        "  b: {image: localhost/x}\n"
    )
    assert "first in line 2" in problem(config).message
    assert config.broken == {"a": config.problems}
    assert list(config.models) == ["b"]


# --- family, defaults, masks ---


def test_family_is_named_or_taken_from_the_file() -> None:
    text = "models: {m: {image: localhost/x}}"
    assert models_of(text).models["m"].family == "m"
    assert models_of(f"family: f\n{text}").models["m"].family == "f"
    assert problem(models_of(f"family: [f]\n{text}")).path == "family"


def test_unknown_part_of_a_catalog_file_is_a_problem() -> None:
    assert problem(models_of("model: {}")).hint == "did you mean models?"
    found = problem(models_of("gpt-x: {image: localhost/x}"))
    assert found.hint == "known here: defaults, family, models"


def test_defaults_are_laid_under_entries_and_only_env_is_merged() -> None:
    config = models_of(
        "defaults:\n"
        "  image: localhost/x\n"
        "  args: [--a]\n"
        "  env: {A: 1, B: 2}\n"
        "  load_timeout: 5s\n"
        "models:\n"
        "  plain:\n"
        "  own: {args: [--b], env: {B: 3, C: 4}, load_timeout: 6s}\n"
    )
    assert not config.problems
    plain, own = config.models["plain"], config.models["own"]
    assert (plain.args, plain.load_timeout_s) == (("--a",), 5)
    assert plain.env == (("A", "1"), ("B", "2"))
    assert (own.args, own.load_timeout_s) == (("--b",), 6)
    assert own.env == (("A", "1"), ("B", "3"), ("C", "4"))


def test_broken_defaults_break_the_entries_of_their_file_and_are_said_once() -> None:
    config = parse(
        [
            catalog(
                "a.yaml",
                "defaults: {image: localhost/x, gup: 0}\nmodels: {a: {}, b: {}, c: {masked: yes}}",
            ),
            catalog("b.yaml", "models: {d: {image: localhost/x}}"),
        ]
    )
    assert problem(config).path == "defaults.gup"
    assert config.broken == {"a": config.problems, "b": config.problems}
    assert list(config.models) == ["d"]


def test_masked_entry_is_hidden_and_nothing_else_of_it_is_read() -> None:
    config = models_of("models: {a: {masked: true, nonsense: 1}, b: {image: localhost/x}}")
    assert not config.problems
    assert not config.broken
    assert list(config.models) == ["b"]


def test_masked_defaults_hide_a_family_but_for_entries_that_say_otherwise() -> None:
    config = models_of(
        "defaults: {image: localhost/x, masked: true}\nmodels: {a: {}, b: {masked: false}}"
    )
    assert list(config.models) == ["b"]


# --- files over files ---

SHIPPED = "models: {a: {image: localhost/shipped, args: [--a]}, b: {image: localhost/shipped}}"


def overridden(text: str) -> Config:
    return parse([catalog("usr/z.yaml", SHIPPED, 0), catalog("etc/a.yaml", text, 1)])


def test_entry_of_a_higher_layer_replaces_the_lower_one_whole() -> None:
    config = overridden("models: {a: {image: localhost/mine}}")
    assert config.models["a"].image == "localhost/mine"
    assert config.models["a"].args == ()
    assert config.models["b"].image == "localhost/shipped"


def test_mask_of_a_higher_layer_hides_the_shipped_entry() -> None:
    assert list(overridden("models: {a: {masked: true}}").models) == ["b"]


def test_broken_override_does_not_fall_back_to_the_shipped_entry() -> None:
    config = overridden("models: {a: {imag: localhost/mine}}")
    assert list(config.models) == ["b"]
    assert list(config.broken) == ["a"]


def test_override_silences_the_problems_of_what_it_replaces() -> None:
    config = parse(
        [
            catalog("usr/a.yaml", "models: {a: {imag: x}}", 0),
            catalog("etc/b.yaml", "models: {a: {image: localhost/x}}", 1),
        ]
    )
    assert not config.problems
    assert list(config.models) == ["a"]


def test_two_files_of_one_layer_that_define_an_id_are_a_problem_naming_both() -> None:
    config = parse(
        [
            catalog("one.yaml", "models:\n  a: {image: localhost/1}\n"),
            catalog("two.yaml", "\nmodels:\n  a: {image: localhost/2}\n"),
        ]
    )
    found = problem(config)
    assert str(found).startswith("two.yaml:3: models.a: model 'a' is defined twice")
    assert "one.yaml:2" in found.message
    assert config.broken == {"a": (found,)}
    assert not config.models


def test_override_settles_a_clash_in_the_layer_below() -> None:
    config = parse(
        [
            catalog("usr/one.yaml", "models: {a: {image: localhost/1}}", 0),
            catalog("usr/two.yaml", "models: {a: {image: localhost/2}}", 0),
            catalog("etc/mine.yaml", "models: {a: {image: localhost/3}}", 1),
        ]
    )
    assert config.models["a"].image == "localhost/3"
    assert not config.problems


def test_problem_without_path_and_hint_reads_well() -> None:
    assert str(Problem(source="f", line=2, path="", message="bad")) == "f:2: bad"


def test_order_of_variables_does_not_change_a_model() -> None:
    def env(text: str) -> Mapping[str, ModelSpec]:
        return models_of(f"models: {{m: {{image: localhost/x, env: {text}}}}}").models

    assert env("{A: 1, B: 2}") == env("{B: 2, A: 1}")


# --- aliases ---


def aliased(*entries: tuple[str, str], name: str = "m.yaml", layer: int = 0) -> Source:
    lines = [f"  {model}: {{image: localhost/x, aliases: [{names}]}}" for model, names in entries]
    return catalog(name, "models:\n" + "\n".join(lines) + "\n", layer)


def test_aliases_lead_to_their_models() -> None:
    config = parse([aliased(("a", "x, org/x"), ("b", "y"))])
    assert not config.problems
    assert config.aliases == {"x": "a", "org/x": "a", "y": "b"}


@pytest.mark.parametrize("other", ["{image: localhost/x}", "{imaeg: localhost/x}"])
def test_alias_may_not_be_the_id_of_a_model_even_of_a_broken_one(other: str) -> None:
    config = parse([aliased(("a", "b")), catalog("n.yaml", f"models:\n  b: {other}\n")])
    assert "a" in config.broken
    assert config.broken["a"][0].path == "models.a.aliases"
    assert config.broken["a"][0].message == "'b' is the id of another model"
    assert config.aliases == {}


def test_two_models_may_not_have_the_same_alias_and_the_local_one_keeps_it() -> None:
    config = parse([aliased(("a", "x")), aliased(("b", "x"), name="l.yaml", layer=1)])
    assert config.aliases == {"x": "b"}
    assert [str(found) for found in config.broken["a"]] == [
        "m.yaml:2: models.a.aliases: 'x' is an alias of model 'b' already (choose another alias)"
    ]


def test_alias_that_could_not_be_an_id_is_refused() -> None:
    assert "'a b' is not a model id" in problem(entry('aliases: ["a b"]')).message


def test_alias_of_an_entry_that_was_replaced_is_free_again() -> None:
    replaced = catalog("l.yaml", "models:\n  a: {image: localhost/x}\n", layer=1)
    config = parse([aliased(("a", "x")), replaced])
    assert (config.aliases, config.problems) == ({}, ())


def test_alias_may_be_a_pattern() -> None:
    config = parse([aliased(("a", '"claude-*"'))])
    assert (config.aliases, config.problems) == ({"claude-*": "a"}, ())
    assert "is not a model id" in problem(entry('aliases: ["a *"]')).message


@pytest.mark.parametrize("key", ["default_model", "small_model"])
def test_default_that_is_no_model_is_a_problem_and_the_other_settings_hold(key: str) -> None:
    settings = Source(kind=SourceKind.SETTINGS, name="s.yaml", text=f"idle_exit: 5s\n{key}: gone\n")
    config = parse([settings, aliased(("a", "x"))])
    assert [str(found) for found in config.problems] == [
        f"s.yaml:2: {key}: {key} is 'gone', and there is no such model "
        "(sparkctl models lists the models)"
    ]
    assert (config.settings_ok, config.settings.idle_exit_s) == (True, 5)
    for name in ("a", "x", "none"):
        settings = Source(kind=SourceKind.SETTINGS, name="s.yaml", text=f"{key}: {name}\n")
        assert not parse([settings, aliased(("a", "x"))]).problems


def adapted(text: str) -> Config:
    source = catalog("m.yaml", f"models:\n  base: {{image: localhost/x, {text}}}\n")
    return parse([source], weights_dir=Path("/w"))


def test_adapters_are_further_names_with_weights_of_their_own() -> None:
    config = adapted("adapters: {sql: {repo: org/sql}, law: {path: /srv/law}}")
    sql, law = config.models["base"].adapters
    assert (sql.name, sql.weights.repo, sql.weights.path) == (
        *("sql", "org/sql"),
        Path("/w/org--sql"),
    )
    assert (law.name, law.weights.path) == ("law", Path("/srv/law"))
    assert config.aliases == {"sql": "base", "law": "base"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adapters: [x]", "mapping"),
        ("adapters: {x: none}", "an adapter without weights"),
        ("adapters: {x: {}}", "neither path nor repo is given"),
        ("adapters: {'a b': {path: /x}}", "'a b'"),
        ("adapters: {base: {path: /x}}", "'base' is the id of another model"),
        ("aliases: [x], adapters: {x: {path: /x}}", "'x' is an alias of model 'base' already"),
        ("adapters: {x: {path: /x}}, engine: {command: ['s', '{socket}']}", "adapters need vLLM"),
        ("args: [--lora-modules, x=/y]", "lora-modules"),
        ("args: [--lora-mod, x=/y]", "lora-modules"),
        ("adapters: {x: {path: /x}}, args: [--enable-lora]", "'--enable-lora' is decided by"),
        ("adapters: {x: {path: /x}}, args: [--no-enable-lora]", "'--no-enable-lora' is decided"),
        ("adapters: {x: {path: /x}}, args: [--enable_lora]", "'--enable_lora' is decided by"),
        ("adapters: {x: {path: /x}}, args: [--enable-lora=false]", "'--enable-lora' is decided"),
    ],
)
def test_adapters_that_cannot_work_are_refused(text: str, message: str) -> None:
    (problem,) = adapted(text).problems
    assert message in problem.message


def test_other_options_of_adapters_are_for_the_entry_to_decide() -> None:
    options = "[--max-lora-rank, 64, --enable-lora-bias, --enable-prefix-caching]"
    assert not adapted(f"adapters: {{x: {{path: /x}}}}, args: {options}").problems
    assert not adapted("args: [--enable-lora]").problems
