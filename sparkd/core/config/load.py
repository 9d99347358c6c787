# SPDX-License-Identifier: Apache-2.0
"""From the texts of the configuration files to one `Config`, with every problem of all of them.

Owns how files and defaults are laid over each other; the keys are in `core.config.model_keys`, what
must hold between those of one entry in `core.config.model_rules`. Reads no file and repairs
nothing: what is out of range is a problem, and a broken entry stays a broken entry and never stops
another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from sparkd.core.config.kinds import Key, Text, nearest, read_keys
from sparkd.core.config.model_keys import MODEL_KEYS
from sparkd.core.config.model_rules import check_entry, is_model_id
from sparkd.core.config.settings_keys import SETTINGS_KEYS
from sparkd.core.config.suggestions import foreign_file
from sparkd.core.config.yaml_nodes import Place, compose, shorten
from sparkd.core.model import Config, ModelSpec, Problem, Settings, Weights
from sparkd.core.names import Layout

WEIGHTS_DIR = Layout().weights_dir
_FAMILY = Text()
_NAMING = ("default_model", "small_model")
_LISTING = "sparkctl models lists the models"


class SourceKind(StrEnum):
    SETTINGS = "settings"
    MODELS = "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One configuration file as it was read."""

    kind: SourceKind
    name: str
    """Its path, for messages."""
    text: str = ""
    layer: int = 0
    """Entries of a higher layer replace those of a lower one; within a layer they clash."""
    unreadable: Problem | None = None
    """Set instead of the text when the file could not be read; its source is `name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What one file says about one model."""

    place: Place
    layer: int
    spec: ModelSpec | None = None
    """None when it is masked or broken."""
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What the entries of one file have in common."""

    source: Source
    base: ModelSpec
    """Filled from sparkd.yaml."""
    weights_dir: Path
    defaults: Mapping[str, object] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    """Of `defaults:`; they break every entry of the file."""


def parse(sources: Sequence[Source], *, weights_dir: Path = WEIGHTS_DIR) -> Config:
    """One `Config` of all files, given in order of precedence, lowest first."""
    problems: list[Problem] = []
    settings, named = Settings(), dict[str, Place]()
    for source in sources:
        if source.kind is SourceKind.SETTINGS:
            settings, named = _read_settings(source, problems)
    settings_ok = not problems

    base = ModelSpec(
        model_id="",
        image="",
        idle_timeout_s=settings.idle_timeout_s,
        load_timeout_s=settings.load_timeout_s,
        stop_grace_s=settings.stop_grace_s,
        log_output=settings.log_output,
    )
    catalog: dict[str, _Entry] = {}
    for source in sources:
        if source.kind is SourceKind.MODELS:
            file = _File(source=source, base=base, weights_dir=weights_dir)
            for model_id, entry in _read_models(file, problems):
                catalog[model_id] = _lay_over(catalog.get(model_id), model_id, entry)

    catalog = _without_clashes(catalog)
    known = {*catalog, *(name for e in catalog.values() if e.spec for name in e.spec.names)}
    for name, place in named.items():
        text = place.scalar()
        if text is not None and text not in {*known, "none"}:
            place.report(f"{name} is {shorten(text)}, and there is no such model", _LISTING)
    for entry in catalog.values():
        problems.extend(entry.problems)
    order = [source.name for source in sources]
    return Config(
        settings=settings,
        models={model_id: entry.spec for model_id, entry in catalog.items() if entry.spec},
        aliases={
            name: model_id
            for model_id, entry in catalog.items()
            if entry.spec
            for name in entry.spec.names
        },
        broken={model_id: entry.problems for model_id, entry in catalog.items() if entry.problems},
        problems=tuple(
            sorted(dict.fromkeys(problems), key=lambda one: (order.index(one.source), one.line))
        ),
        settings_ok=settings_ok,
    )


def default_text(key: Key, owner: type[Settings | ModelSpec]) -> str:
    """The default of a key as the documentation shows it."""
    if key.default is not None:
        return key.default
    default = next(spec.default for spec in fields(owner) if spec.name == key.field)
    return f"`{key.kind.show(default)}`"


def _open(source: Source, problems: list[Problem]) -> Place | None:
    if source.unreadable:
        problems.append(source.unreadable)
        return None
    return compose(source.text, source.name, problems)


def _read_settings(source: Source, problems: list[Problem]) -> tuple[Settings, dict[str, Place]]:
    """The settings, and where those stand that name a model: they are checked when all are read."""
    top = _open(source, problems)
    if top is None:
        return Settings(), {}
    values: dict[str, Any] = read_keys(top, SETTINGS_KEYS)
    if problems:
        return Settings(), {}
    named = {name: place for name, place in dict(top.entries()).items() if name in _NAMING}
    return Settings(**values), named


def _read_models(file: _File, problems: list[Problem]) -> list[tuple[str, _Entry]]:
    """The entries of one file; problems that belong to no entry are added to `problems`."""
    top = _open(file.source, problems)
    if top is None:
        return []
    parts = dict(top.entries())
    if foreign := foreign_file(parts):
        top.report(
            f"this is {foreign}, not one of sparkd",
            f"move it away: sudo mv {top.source} {top.source}.old; write each of its models as "
            "models: {NAME: {image: REGISTRY/NAME:TAG, weights: {repo: ORG/NAME}, args: []}}",
        )
        return []
    models = parts.pop("models", None)
    family = Path(file.source.name).stem
    if place := parts.pop("family", None):
        family = _FAMILY.read(place) or family
    if place := parts.pop("defaults", None):
        place = place.isolated()
        defaults = read_keys(place, MODEL_KEYS)
        problems.extend(place.problems)
        file = replace(file, defaults=defaults, problems=tuple(place.problems))
    for name, place in parts.items():
        known = dict.fromkeys(("family", "defaults", "models"))
        place.report(f"unknown key {shorten(name)}", nearest(name, known))
    file = replace(file, base=replace(file.base, family=family))
    entries = models.entries() if models else []
    # An id that stands in the file twice means neither: the clash breaks the entry.
    clashes = problems[:]
    read: list[tuple[str, _Entry]] = []
    for model_id, place in entries:
        if is_model_id(model_id, place):
            own = place.isolated()
            own.problems.extend(
                clash for clash in clashes if (clash.source, clash.path) == (own.source, own.path)
            )
            read.append((model_id, _read_entry(model_id, own, file)))
    return read


def _read_entry(model_id: str, place: Place, file: _File) -> _Entry:
    entry = _Entry(place=place, layer=file.source.layer)
    if _is_masked(place, file):
        return entry
    values = read_keys(place, MODEL_KEYS)
    merged: dict[str, Any] = {**file.defaults, **values, "model_id": model_id}
    merged.pop("masked", None)
    if "image" not in merged:
        place.report("no image is given", "add image: REGISTRY/NAME:TAG")
    problems = [*file.problems, *place.problems]
    if problems:
        return replace(entry, problems=tuple(problems))
    merged["env"] = _merge_env(file.defaults, values)
    merged["source"] = f"{place.source}:{place.line}"
    spec = replace(file.base, **merged)
    spec = _placed(spec, file.weights_dir)
    spec = check_entry(spec, place)
    return replace(entry, spec=None if place.problems else spec, problems=tuple(place.problems))


def _placed(spec: ModelSpec, weights_dir: Path) -> ModelSpec:
    """The entry with whole paths of weights.

    An absolute path stays as it is: `/` of pathlib drops the directory before it.
    """

    def placed(weights: Weights) -> Weights:
        return replace(weights, path=weights_dir / weights.path)

    return replace(
        spec,
        weights=placed(spec.weights) if spec.weights else None,
        adapters=tuple(replace(one, weights=placed(one.weights)) for one in spec.adapters),
    )


def _is_masked(place: Place, file: _File) -> bool:
    """Looks at that one key only: an entry that is switched off may be broken."""
    masked = file.defaults.get("masked", False)
    if place.is_mapping:
        quiet = place.isolated()
        own = dict(quiet.entries()).get("masked")
        masked = own.flag() if own else masked
    return masked is True


def _merge_env(*layers: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """Sorted, because the order of variables means nothing and must not restart a model."""
    merged: dict[str, str] = {}
    for layer in layers:
        env = layer.get("env")
        if isinstance(env, dict):
            merged |= env
    return tuple(sorted(merged.items()))


def _without_clashes(catalog: Mapping[str, _Entry]) -> dict[str, _Entry]:
    """The catalog in which every name means one model; entries that want a taken one are broken."""
    taken = dict.fromkeys(catalog, "is the id of another model")
    checked = dict(catalog)
    # Who stands in a higher layer chooses first.
    for model_id, entry in sorted(catalog.items(), key=lambda item: -item[1].layer):
        problems: list[Problem] = []
        for kind, name in _names(entry.spec):
            if name in taken:
                problems.append(_clash(entry, kind, name, taken[name]))
            taken.setdefault(name, f"is an {kind} of model {model_id!r} already")
        if problems:
            checked[model_id] = replace(entry, spec=None, problems=(*entry.problems, *problems))
    return checked


def _names(spec: ModelSpec | None) -> Iterator[tuple[str, str]]:
    """The further names of an entry, each with its kind."""
    if spec is not None:
        yield from (("alias", alias) for alias in spec.aliases)
        yield from (("adapter", adapter.name) for adapter in spec.adapters)


def _clash(entry: _Entry, kind: str, name: str, why: str) -> Problem:
    place = entry.place
    return Problem(
        source=place.source,
        line=place.line,
        path=f"{place.path}.{'aliases' if kind == 'alias' else 'adapters'}",
        message=f"{shorten(name)} {why}",
        hint=f"choose another {'alias' if kind == 'alias' else 'id'}",
    )


def _lay_over(before: _Entry | None, model_id: str, entry: _Entry) -> _Entry:
    if before is None or before.layer != entry.layer:
        return entry
    first = f"{before.place.source}:{before.place.line}"
    twice = Problem(
        source=entry.place.source,
        line=entry.place.line,
        path=entry.place.path,
        message=f"model {model_id!r} is defined twice, first in {first}",
        hint="remove one of the two",
    )
    return replace(entry, spec=None, problems=(*before.problems, *entry.problems, twice))
