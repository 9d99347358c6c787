# SPDX-License-Identifier: Apache-2.0
"""The files of a repository that a server reads: one set of weights, and all other files.

Repositories hold the same weights several times: as shards and as `consolidated.safetensors`, as
safetensors and for other programs, as many quantizations in GGUF. `include` and `exclude` of an
entry's weights decide; without `include` the rules of this module do. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sparkd.core.errors import FetchFailed
from sparkd.core.quantities import readable_size
from sparkd.core.weights.hub import RepoFile

_SAFETENSORS = ".safetensors"
_GGUF = ".gguf"
_OTHER_WEIGHTS = (
    *(".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".tflite"),
    *(_GGUF, ".nemo"),
)
"""Weights for other programs, where there are safetensors."""
_OTHER_THAN_TORCH = tuple(one for one in _OTHER_WEIGHTS if one != ".bin")
_OTHER_DIRECTORIES = ("original/", "metal/", "onnx/", "openvino/", "coreml/")
_TORCH = re.compile(r"pytorch_model(?:-[0-9]+-of-[0-9]+)?\.bin")
_SHARDS = re.compile(r"model(?:-[0-9]+-of-[0-9]+)?\.safetensors")
_VARIANT = re.compile(r"model\.[a-z0-9]+(?:-[0-9]+-of-[0-9]+)?\.safetensors(?:\.index\.json)?")
_VARIANT_INDEX = re.compile(r"model\.safetensors\.index\.[a-z0-9]+\.json")
_INDEX = re.compile(r"model\.safetensors\.index\.json")
_CONSOLIDATED = re.compile(r"consolidated.*\.safetensors(?:\.index\.json)?")
_PART = re.compile(r"-[0-9]{5}-of-[0-9]{5}(?=\.gguf$)")
_PROJECTOR = "mmproj"
_USUAL_GGUF = "q4_k_m"
_NAMED = 8
"""Quantizations that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One set of weights with the files beside them."""

    files: tuple[RepoFile, ...]
    left_out: tuple[RepoFile, ...]

    @property
    def note(self) -> str:
        """One line on the files that stay at the hub; empty when all are taken."""
        if not self.left_out:
            return ""
        size = readable_size(sum(file.size_bytes for file in self.left_out))
        taken = readable_size(sum(file.size_bytes for file in self.files))
        return f"takes {len(self.files)} files, {taken}; leaves out {len(self.left_out)}, {size}"


def choose(
    repo: str,
    every: Sequence[RepoFile],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    mistral_format: bool = False,
) -> Chosen:
    """The files to fetch. Raises FetchFailed when patterns match nothing or GGUF sets are many.

    `mistral_format` takes `consolidated*.safetensors` instead of the shards beside them.
    """
    rest = [file for file in every if not _matches(file, exclude)]
    if include:
        taken = [file for file in rest if _matches(file, include)]
        if not taken:
            raise FetchFailed(
                f"{repo}: no file matches include {', '.join(include)}",
                hint=f"it has {_some(file.path for file in every)}",
                code="hub_not_found",
            )
    else:
        taken = _one_set(repo, rest, mistral_format=mistral_format)
    kept = set(taken)
    return Chosen(files=tuple(taken), left_out=tuple(one for one in every if one not in kept))


def _one_set(repo: str, files: list[RepoFile], *, mistral_format: bool) -> list[RepoFile]:
    top = [file.path for file in files if "/" not in file.path]
    if any(path.endswith(_SAFETENSORS) for path in top):
        files = _without(files, _OTHER_WEIGHTS)
        return _one_format(files, top, mistral_format=mistral_format)
    if any(_TORCH.fullmatch(path) for path in top):
        return _without(files, _OTHER_THAN_TORCH)
    return _one_quantization(repo, files)


def _without(files: list[RepoFile], endings: tuple[str, ...]) -> list[RepoFile]:
    return [
        file
        for file in files
        if not file.path.startswith(_OTHER_DIRECTORIES) and not file.path.lower().endswith(endings)
    ]


def _one_format(files: list[RepoFile], top: list[str], *, mistral_format: bool) -> list[RepoFile]:
    shards = any(_SHARDS.fullmatch(path) for path in top)
    consolidated = any(
        path.endswith(_SAFETENSORS) and _CONSOLIDATED.fullmatch(path) for path in top
    )
    dropped: list[re.Pattern[str]] = []
    if shards:
        dropped = [_VARIANT, _VARIANT_INDEX]
    if shards and consolidated:
        dropped += [_SHARDS, _INDEX] if mistral_format else [_CONSOLIDATED]
    return [file for file in files if not any(one.fullmatch(file.path) for one in dropped)]


def _one_quantization(repo: str, files: list[RepoFile]) -> list[RepoFile]:
    sets: dict[str, list[RepoFile]] = {}
    for file in files:
        path = file.path.lower()
        if path.endswith(_GGUF) and _PROJECTOR not in path.rpartition("/")[2]:
            sets.setdefault(_PART.sub("", file.path), []).append(file)
    if len(sets) <= 1:
        return files
    usual = [name for name in sets if _USUAL_GGUF in name.lower()]
    if len(usual) != 1:
        sizes = (
            f"{name} ({readable_size(sum(file.size_bytes for file in parts))})"
            for name, parts in sets.items()
        )
        raise FetchFailed(
            f"{repo} has {len(sets)} sets of weights: {_some(sizes)}",
            hint=f"choose one in the entry: weights: {{repo: {repo}, include: "
            f'["{_pattern(*next(iter(sets.items())))}"]}}',
            code="weights_ambiguous",
        )
    others = {file for name, parts in sets.items() if name != usual[0] for file in parts}
    return [file for file in files if file not in others]


def _pattern(name: str, parts: list[RepoFile]) -> str:
    """A pattern that matches all parts of a set; a bracket of a name is no class of characters."""
    pattern = (
        name if len(parts) == 1 and parts[0].path == name else f"{name[: -len(_GGUF)]}-*{_GGUF}"
    )
    return pattern.replace("[", "?")


def _matches(file: RepoFile, patterns: Sequence[str]) -> bool:
    """As of `hf download`: `*` also matches `/`, and a directory means all files below it."""
    return any(fnmatchcase(file.path, f"{one}*" if one.endswith("/") else one) for one in patterns)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
