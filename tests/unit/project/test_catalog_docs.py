# SPDX-License-Identifier: Apache-2.0
"""What the documents say about the catalog is what the catalog says.

Run as a program, this writes the generated documents anew.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Any

import yaml

from sparkd.core.clients.programs import calls_tools
from sparkd.core.config.load import Source, SourceKind, parse
from sparkd.core.model import Lifecycle, ModelSpec, Status
from sparkd.core.scheduling.memory import UTILIZATION_OPTION
from tests.unit.project.sources import ROOT

CHOOSER = ROOT / "docs/models-chooser.md"
CORRECTIONS = ROOT / "docs/reference/catalog-corrections.md"
ERRORS = ROOT / "docs/reference/errors.md"
IMAGES = ROOT / "docs/reference/images.md"
CATALOG = parse(
    [
        Source(kind=SourceKind.MODELS, name=str(path), text=path.read_text())
        for path in sorted((ROOT / "etc/models.d").glob("*.yaml"))
    ]
).models
LISTED = yaml.safe_load((ROOT / "tests/vectors/catalog-corrections.yaml").read_text())
WRITE = "to write it, with the Python of the tests: -m tests.unit.project.test_catalog_docs"


def table(header: str, rows: Iterable[Iterable[str]]) -> str:
    columns = header.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines).replace("| --- ", "|---") + "\n"


def code(text: object) -> str:
    return f"`{text}`"


def with_status(status: Status) -> list[ModelSpec]:
    return sorted(
        (spec for spec in CATALOG.values() if spec.status is status),
        key=lambda spec: (spec.family.lower(), spec.model_id),
    )


def share(spec: ModelSpec) -> str:
    """The part of the memory that it asks for, or how much."""
    if UTILIZATION_OPTION in spec.args:
        return spec.args[spec.args.index(UTILIZATION_OPTION) + 1]
    return f"{spec.memory_bytes >> 30} GiB" if spec.memory_bytes else ""


def choices(status: Status) -> str:
    beside = {
        Lifecycle.UTILITY: "beside another",
        Lifecycle.NORMAL: "",
        Lifecycle.EXCLUSIVE: "alone",
    }
    return table(
        "Model | What for | Context | Tools | Pictures | Memory | Runs | What is known",
        (
            (
                code(spec.model_id),
                spec.description,
                str(spec.max_model_len),
                "yes" if calls_tools(spec) else "",
                "yes" if spec.vision else "",
                share(spec),
                beside[spec.lifecycle],
                ". ".join((spec.reason, *spec.facts)) + ".",
            )
            for spec in with_status(status)
        ),
    )


def chooser() -> str:
    disabled = table(
        "Model | What for | Why it is disabled",
        (
            (code(spec.model_id), spec.description, ". ".join((spec.reason, *spec.facts)) + ".")
            for spec in with_status(Status.DISABLED)
        ),
    )
    return f"""\
# Which model

Written from the catalog; `sparkctl models` shows what is on your host.

What is said here of results was found on a DGX Spark (GB10, 128 GB) by an earlier stack, of which
this catalog was [carried over](reference/catalog-corrections.md). sparkd has not run on one yet:
its [images](reference/images.md) for the GPU are not built. *Memory* is the part of the memory that
vLLM asks for, *Context* the window in tokens. A model without a word under *Runs* runs beside the
utility model only.

OpenCode on Linux cannot send pictures, whatever the model: it reads them as text.

## Validated

{choices(Status.VALIDATED)}
## Experimental

{choices(Status.EXPERIMENTAL)}
## Manual

They answer who names them, and are left out of ready-made client configurations.

{choices(Status.MANUAL)}
## Disabled

They are refused. To try one, see [status](reference/configuration.md#status).

{disabled}"""


def shown(value: object) -> str:
    if value is None:
        return "none"
    return code(str(value).lower() if isinstance(value, bool) else value)


def correction(one: dict[str, Any]) -> tuple[str, ...]:
    what = f"{one['field']}: {code(one['item'])}" if "item" in one else one["field"]
    names = ", ".join(code(name) for name in one["models"])
    return names, what, shown(one["before"]), shown(one["here"]), one["reason"]


def corrections() -> str:
    gone = LISTED["gone"]
    everywhere = [
        (rule["field"], ", ".join(map(code, rule["names"])), rule["here"], rule["reason"])
        for rule in LISTED["everywhere"]
    ]
    everywhere.append(
        (
            f"env, with {code(gone['image'])}",
            ", ".join(map(code, gone["names"])),
            "left out",
            gone["reason"],
        )
    )
    phantoms = LISTED["phantoms"]
    return f"""\
# Corrections of the catalog

The catalog was carried over from an earlier stack, whose containers were started by Docker Compose.
Each of its {len(CATALOG)} models has an entry, and each entry does what that stack did: the same
weights, options, variables, context window, limits of clients, except for what stands here. A test
compares option by option.

Options are compared by name, not by their order, and in one spelling: `--tensor_parallel_size 1` is
`--tensor-parallel-size 1`, and `--limit-mm-per-prompt=X` is `--limit-mm-per-prompt X`.

## For every model

{table("Of | What was there | Here | Why", everywhere)}
## For single models

{table("Models | What | Before | Here | Why", map(correction, LISTED["models"]))}
## Ids without a model

{", ".join(map(code, phantoms["names"]))}: {phantoms["reason"][0].lower()}{phantoms["reason"][1:]}

## Images

What each track holds, and which are not built yet, is in [Images](images.md).

{table("Before | Here", ((code(a), code(b)) for a, b in LISTED["images"].items()))}"""


def image_rows() -> list[str]:
    by_image: dict[str, list[str]] = {}
    for spec in CATALOG.values():
        by_image.setdefault(spec.image, []).append(code(spec.model_id))
    return [
        f"| {code(image)} | {', '.join(sorted(names))} |"
        for image, names in sorted(by_image.items())
    ]


def images() -> str:
    """The document with its table of models put in; all else of it is written by hand."""
    before, heading, after = IMAGES.read_text().partition("| Image | Models |\n|---|---|\n")
    rest = after[after.index("\n\n") :]
    return before + heading + "\n".join(image_rows()) + rest


GENERATED = {CHOOSER: chooser, CORRECTIONS: corrections, IMAGES: images}


def test_chooser_is_written_from_the_catalog() -> None:
    assert CHOOSER.read_text() == chooser(), WRITE


def test_every_model_is_in_the_chooser() -> None:
    named = re.findall(r"^\| `([^`]+)` \|", CHOOSER.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(CATALOG)


def test_corrections_are_documented_exactly() -> None:
    assert CORRECTIONS.read_text() == corrections(), WRITE


def test_images_are_documented_with_the_models_that_need_them() -> None:
    assert IMAGES.read_text() == images(), WRITE


def test_every_image_says_what_it_holds_and_whether_it_is_built() -> None:
    tracks = IMAGES.read_text().partition("| Image | Holds | State |\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in tracks.splitlines()]
    states = {row[0].strip("`"): row[2] for row in rows[1:]}
    assert set(states) == {spec.image for spec in CATALOG.values()} | {
        "localhost/sparkd-vllm-cpu:latest"
    }
    for image, state in states.items():
        name = image.removeprefix("localhost/sparkd-").removesuffix(":latest")
        if not (ROOT / "containerfiles" / name).is_dir():
            assert state.startswith("not built"), image


def test_entries_that_documents_show_are_entries() -> None:
    blocks = [
        textwrap.dedent(block)
        for path in sorted((ROOT / "docs").glob("*.md"))
        for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL)
    ]
    shown = [block for block in blocks if block.startswith("# /etc/sparkd/models.d/")]
    assert len(shown) >= 2
    for block in shown:
        config = parse([Source(kind=SourceKind.MODELS, name="shown.yaml", text=block)])
        assert config.problems == ()
        assert config.models


def test_errors_that_troubleshooting_names_are_errors() -> None:
    """That each code is explained, with what to do, is tested where the codes are."""
    known = set(re.findall(r"`([a-z_]+)`", ERRORS.read_text()))
    text = (ROOT / "docs/troubleshooting.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    named = {code for row in rows for code in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", row)}
    assert named
    assert named <= known


if __name__ == "__main__":
    for path, written in GENERATED.items():
        path.write_text(written())
