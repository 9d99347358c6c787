# SPDX-License-Identifier: Apache-2.0
"""What a reader must hold in his head at once stays small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.project.sources import PATHS, ROOT, nodes, tree

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50
POSITIONAL_MAX = 5

Function = ast.FunctionDef | ast.AsyncFunctionDef

IDS = [str(path.relative_to(ROOT)) for path in PATHS]
sources = pytest.mark.parametrize("path", PATHS, ids=IDS)


def functions(path: Path) -> Iterator[Function]:
    return (node for node in nodes(path) if isinstance(node, Function))


def lines_of(function: Function) -> int:
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or first) - first + 1


def positional(function: Function) -> int:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return len([name for name in names if name not in ("self", "cls")])


@sources
def test_module_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX


@sources
def test_functions_are_short(path: Path) -> None:
    sizes = {f"{f.name}, line {f.lineno}": lines_of(f) for f in functions(path)}
    assert {name: size for name, size in sizes.items() if size > FUNCTION_LINES_MAX} == {}


@sources
def test_functions_take_few_positional_arguments(path: Path) -> None:
    counts = {f"{f.name}, line {f.lineno}": positional(f) for f in functions(path)}
    assert {name: count for name, count in counts.items() if count > POSITIONAL_MAX} == {}


@sources
def test_module_says_what_it_is_for(path: Path) -> None:
    if path.name in ("_version.py",) or not path.read_text().strip():
        return
    assert ast.get_docstring(tree(path))
