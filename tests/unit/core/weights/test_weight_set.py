# SPDX-License-Identifier: Apache-2.0
"""Of a repository that holds the same weights several times, a pull takes one set."""

from __future__ import annotations

import pytest

from sparkd.core.config.load import Source, SourceKind, parse
from sparkd.core.errors import FetchFailed
from sparkd.core.weights.hub import Algorithm, Digest, RepoFile
from sparkd.core.weights.weight_set import choose

BESIDE = ["config.json", "tokenizer.json"]
SHARDS = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
]
CONSOLIDATED = ["consolidated-00001-of-00001.safetensors", "consolidated.safetensors.index.json"]
GGUF = ["m-Q2_K.gguf", "m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf", "m-F16.gguf"]


def files(*paths: str) -> list[RepoFile]:
    digest = Digest(Algorithm.SHA256, "c" * 64)
    return [RepoFile(path=path, size_bytes=1 << 30, digest=digest) for path in paths]


def taken(*paths: str, **options: object) -> list[str]:
    chosen = choose("org/name", files(*paths), **options)  # type: ignore[arg-type]
    assert sorted((*chosen.files, *chosen.left_out), key=lambda one: one.path) == sorted(
        files(*paths), key=lambda one: one.path
    )
    return [file.path for file in chosen.files]


@pytest.mark.parametrize(
    ("others", "kept"),
    [
        (CONSOLIDATED, []),
        (["consolidated.safetensors", "params.json"], ["params.json"]),
        (["pytorch_model.bin", "original/consolidated.00.pth", "onnx/m.onnx"], []),
        (["model.fp16.safetensors", "model.fp32-00001-of-00002.safetensors"], []),
        (["model.safetensors.index.fp32.json", "tf_model.h5", "m.gguf"], []),
        (["1_Pooling/config.json", "adapter.safetensors"], None),
    ],
)
def test_shards_are_taken_without_the_same_weights_in_other_forms(
    others: list[str], kept: list[str] | None
) -> None:
    expected = [*BESIDE, *SHARDS, *(others if kept is None else kept)]
    assert taken(*BESIDE, *SHARDS, *others) == expected


def test_consolidated_alone_are_the_weights() -> None:
    assert taken(*BESIDE, *CONSOLIDATED) == [*BESIDE, *CONSOLIDATED]


def test_mistral_format_takes_consolidated_and_no_shards() -> None:
    assert taken(*BESIDE, *SHARDS, *CONSOLIDATED, mistral_format=True) == [*BESIDE, *CONSOLIDATED]
    assert taken(*BESIDE, *SHARDS, mistral_format=True) == [*BESIDE, *SHARDS]


def test_torch_weights_are_taken_without_those_of_other_programs() -> None:
    others = ["tf_model.h5", "flax_model.msgpack", "m.gguf", "onnx/model.onnx"]
    assert taken(*BESIDE, "pytorch_model.bin", *others) == [*BESIDE, "pytorch_model.bin"]


def test_of_many_quantizations_the_usual_one_is_taken_with_all_its_parts() -> None:
    assert taken("README.md", "mmproj-F16.gguf", *GGUF) == [
        *("README.md", "mmproj-F16.gguf", *GGUF[1:3])
    ]
    assert taken("README.md", "m-F16.gguf") == ["README.md", "m-F16.gguf"]


def test_many_quantizations_without_the_usual_one_want_a_choice() -> None:
    with pytest.raises(FetchFailed, match=r"has 2 sets of weights: m-Q2_K.gguf \(1.0 GiB\)") as one:
        taken("m-Q2_K.gguf", "m-F16.gguf")
    assert one.value.code == "weights_ambiguous"
    # The hint leads to a pull that works.
    written = one.value.hint.partition(": ")[2]
    text = f"models: {{m: {{image: localhost/x, {written}}}}}"
    config = parse([Source(kind=SourceKind.MODELS, name="m", text=text)])
    weights = config.models["m"].weights
    assert weights
    assert taken("m-Q2_K.gguf", "m-F16.gguf", include=weights.include) == ["m-Q2_K.gguf"]
    many = files(*(f"m{n}.gguf" for n in range(5000)))
    with pytest.raises(FetchFailed) as bounded:
        choose("org/name", many)
    assert len(str(bounded.value)) < 600


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ("*Q2*",)}, ["m-Q2_K.gguf"]),
        ({"include": ("*.gguf",), "exclude": ("*Q*",)}, ["m-F16.gguf"]),
        ({"exclude": ("*Q*",)}, ["sub/x.json", "m-F16.gguf"]),
        ({"include": ("sub/",)}, ["sub/x.json"]),
    ],
)
def test_patterns_of_the_entry_decide(
    options: dict[str, tuple[str, ...]], expected: list[str]
) -> None:
    assert taken("sub/x.json", *GGUF, **options) == expected


def test_exclude_of_the_shards_leaves_the_consolidated_weights() -> None:
    options = {"exclude": ("model*",)}
    assert taken(*BESIDE, *SHARDS, *CONSOLIDATED, **options) == [*BESIDE, *CONSOLIDATED]


def test_include_that_matches_nothing_names_files() -> None:
    with pytest.raises(FetchFailed, match="no file matches include") as raised:
        taken(*GGUF, include=("*Q9*",))
    assert "m-Q2_K.gguf" in raised.value.hint


def test_adapter_is_fetched_whole() -> None:
    paths = ("README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json")
    chosen = choose("org/lora", files(*paths))
    assert {file.path for file in chosen.files} >= set(paths[1:])
