# SPDX-License-Identifier: Apache-2.0
"""The reference says what the code does: each side is held against the other."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest

from sparkd.core.clients import integrations
from sparkd.core.errors import Busy, SparkdError
from sparkd.core.telemetry.events import EventKind
from sparkd.scheduling.scheduler import _BUSY_HINTS
from sparkd.sparkctl import gateway_address
from tests.unit.project import house
from tests.unit.project.sources import PATHS, ROOT, module_name, nodes, tree
from tests.unit.project.test_layers import MAY_IMPORT

REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
documents = pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)


def modules() -> Iterator[tuple[ModuleType, ast.Module]]:
    for path in PATHS:
        if path.stem not in ("__init__", "__main__"):
            yield importlib.import_module(module_name(path)), tree(path)


def rows(document: str) -> Iterator[list[str]]:
    """The cells of every row whose first cell is one word of code."""
    for line in (REFERENCE / document).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and re.fullmatch(r"`[^`]+`", cells[0]):
            yield [cells[0].strip("`"), *cells[1:]]


@cache
def codes() -> frozenset[tuple[str, int]]:
    """Every code that an error of sparkd can have, with the status of its class."""
    # The refusals of the queue are one error, whose codes stand with their hints.
    found = {(code, Busy.http_status) for code in _BUSY_HINTS}
    for module, source in modules():
        for error in vars(module).values():
            ours = isinstance(error, type) and issubclass(error, SparkdError)
            if ours and error.__module__ == module.__name__:
                found.add((error.code, error.http_status))
        for kind, node in calls(source):
            for keyword in node.keywords:
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                    found.add((str(keyword.value.value), getattr(module, kind).http_status))
    return frozenset(found)


def calls(node: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Each call with the name of the class that it makes; `super().__init__` makes its own."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Name):
            yield child.func.id, child
        elif (
            isinstance(child, ast.Call)
            and isinstance(child.func, ast.Attribute)
            and ast.unparse(child.func) == "super().__init__"
        ):
            yield inside, child
        yield from calls(child, child.name if isinstance(child, ast.ClassDef) else inside)


def test_every_error_code_is_explained_and_every_explained_code_exists() -> None:
    explained = [row[0] for row in rows("errors.md")]
    assert len(explained) == len(set(explained))
    assert set(explained) == {code for code, _ in codes()}


def test_every_error_code_has_a_cause_and_a_cure() -> None:
    rows = (ROOT / "docs" / "troubleshooting.md").read_text().splitlines()
    symptoms = [row.split(" | ")[0] for row in rows if row.startswith("| ")]
    cured = {code for symptom in symptoms for code in re.findall(r"`([a-z_]+)`", symptom)}
    # A defect of ours has no cure, but a section of its own.
    assert {code for code, _ in codes()} - cured <= {"internal_error"}


def test_status_of_every_error_is_the_documented_one() -> None:
    documented = {row[0]: row[1].split(",")[0] for row in rows("errors.md")}
    wrong = {
        code: (status, documented.get(code))
        for code, status in codes()
        if documented.get(code) not in (str(status), "none")
    }
    assert wrong == {}


def test_every_explained_error_says_when_and_what_to_do() -> None:
    assert all(all(row[1:]) and len(row) == 4 for row in rows("errors.md"))


def events() -> dict[str, list[str]]:
    return {row[0]: row for row in rows("journal.md") if len(row) == 5}


def test_every_event_is_documented_with_its_message_id() -> None:
    documented = {label: row[1].strip("`") for label, row in events().items()}
    assert documented == {event.label: event.message_id for event in EventKind}


def test_message_ids_are_unique_and_what_journald_takes() -> None:
    ids = [event.message_id for event in EventKind]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


@cache
def logged_fields() -> dict[str, set[str]]:
    """The fields of each event, from the calls of `fields(EventKind.X, name=...)` and `note`.

    A function that chooses between events has all of them have the fields.
    """
    found: dict[str, set[str]] = {event.label: set() for event in EventKind}
    for path in PATHS:
        functions = (
            n for n in nodes(path) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        for function in functions:
            named = [
                EventKind[node.attr].label
                for node in ast.walk(function)
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "EventKind"
            ]
            for kind, call in calls(function) if named else ():
                if kind in ("fields", "note") and call.args:
                    for label in named:
                        found[label] |= {f"SPARKD_{key.arg}".upper() for key in call.keywords}
    return found


def test_every_event_is_documented_with_its_fields() -> None:
    documented = {label: set(re.findall(r"SPARKD_\w+", row[4])) for label, row in events().items()}
    assert documented == logged_fields()


def test_every_field_is_explained() -> None:
    explained = {row[0] for row in rows("journal.md") if len(row) == 2}
    used = {field for fields in logged_fields().values() for field in fields}
    assert explained == used | {"SPARKD_EVENT", "CODE_MODULE"}


def anchors(text: str) -> set[str]:
    """Headings as the usual renderers make anchors of them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        link = urlsplit(target)
        if link.scheme:
            assert link.scheme in ("http", "https"), target
            continue
        path = (document.parent / link.path).resolve() if link.path else document
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        assert not link.fragment or link.fragment in anchors(path.read_text()), target


@documents
def test_reloads_work_also_when_no_gateway_runs(document: Path) -> None:
    assert not re.findall(r"sudo systemctl reload sparkd", document.read_text())


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {
        (index.parent / urlsplit(target).path).resolve()
        for target in re.findall(r"\]\(([^)\s]+)\)", index.read_text())
    }
    assert set((ROOT / "docs").rglob("*.md")) - {index} <= listed


def test_layers_are_the_documented_ones() -> None:
    text = (ROOT / "docs" / "HACKING.md").read_text()
    section = text[text.index("## Layers") : text.index("## Commands")]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", section, re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows} == MAY_IMPORT


def test_packages_of_the_program_are_the_documented_tree() -> None:
    text = (ROOT / "docs" / "HACKING.md").read_text()
    assert "\n".join(["```", *house.lines(), "units/"]) in text


def test_each_answer_for_newcomers_names_a_place_that_exists() -> None:
    text = (ROOT / "docs" / "HACKING.md").read_text()
    answers = re.findall(r"^\| [^|]+\? \| `([\w/]+\.py)`: `(\w+)` \|$", text, re.MULTILINE)
    assert len(answers) == 10
    for path, name in answers:
        assert re.search(
            rf"^ *(class|def|async def) {name}\b|^{name}: ", (ROOT / path).read_text(), re.MULTILINE
        ), path


def test_directories_of_the_tests_are_in_the_documented_tree() -> None:
    text = (ROOT / "docs" / "HACKING.md").read_text()
    tests = text[text.index("\ntests/\n") : text.index("\ndocs/ ")]
    listed = set(re.findall(r"^ +(\w+)/ ", tests, re.MULTILINE))
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and any(p.glob("[!.]*"))}
    assert listed == {name for name in folders if not name.startswith(("_", "."))}


def test_every_target_of_make_is_documented() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / "docs" / "HACKING.md").read_text()
    assert targets - {"help"} <= set(re.findall(r"^\| `make ([a-z-]+)` ", text, re.MULTILINE))


def variables_of(path: Path) -> set[str]:
    """The names of the environment that a module looks up."""
    words = (n.value for n in nodes(path) if isinstance(n, ast.Constant))
    names = {w for w in words if isinstance(w, str) and re.fullmatch(r"(SPARKD|HF)_[A-Z_]+", w)}
    return names if "environ" in path.read_text() else set()


def test_every_variable_of_the_environment_is_documented_and_no_other_is() -> None:
    read = {name for path in PATHS for name in variables_of(path)}
    texts = "".join(document.read_text() for document in DOCUMENTS)
    assert {name for name in read if f"`{name}" not in texts} == set()
    by_hand = (ROOT / "docs/HACKING.md").read_text().partition("## Run it by hand")[2]
    moved = re.findall(r"^\| `(SPARKD_[A-Z_]+)` \|", by_hand, re.MULTILINE)
    assert moved
    assert set(moved) <= read


TOP_LEVEL = "sparkd|units|containerfiles|etc|tests|docs|packaging"


@documents
def test_files_of_the_repository_that_are_named_exist(document: Path) -> None:
    named = re.findall(
        rf"(?<![\w/.@\"-])((?:{TOP_LEVEL})/[\w./@-]*[\w/]|\.ci/\w+)", document.read_text()
    )
    missing = [
        name
        for name in named
        if not (ROOT / name).exists() and not (document.parent / name).exists()
    ]
    assert missing == []


@documents
def test_targets_of_make_that_are_named_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^|&& )make ([a-z-]+)", document.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_variable_of_the_key_has_one_name_everywhere() -> None:
    stray = re.compile(r"SPARKD_KEY\b|\$KEY\b|\bKEY=\$")
    found = {path.name: stray.findall(path.read_text()) for path in DOCUMENTS}
    assert {name: names for name, names in found.items() if names} == {}
    assert integrations.KEY_VARIABLE == gateway_address.KEY_VARIABLE == "SPARKD_API_KEY"
