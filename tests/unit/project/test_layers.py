# SPDX-License-Identifier: Apache-2.0
"""Allowed imports between packages. The tables below are the architecture; the code must match."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.unit.project.sources import PATHS, ROOT, module_name, tree

MAY_IMPORT = {
    # Pure: no I/O, no clock; time comes as an argument.
    "core": set[str](),
    # One outside thing per module or package, no decisions.
    "adapters": {"core"},
    # One model's life.
    "lifecycle": {"core", "adapters"},
    "fetch": {"core", "adapters", "lifecycle"},
    # Who runs next.
    "scheduling": {"core", "adapters", "lifecycle"},
    # The wiring of the parts above.
    "runtime": {"core", "adapters", "lifecycle", "scheduling"},
    # Readings; they change nothing.
    "observe": {"core", "adapters", "lifecycle", "scheduling", "runtime"},
    # The processes. The command line and the short processes work while the gateway is down, so
    # they do not import it.
    "gateway": {"core", "adapters", "lifecycle", "scheduling", "runtime", "observe", "_version"},
    "sparkctl": {
        *("core", "adapters", "lifecycle", "scheduling", "runtime", "observe", "_version"),
        "fetch",
    },
    "oneshot": {"core", "adapters", "runtime"},
    "__main__": {"gateway"},
    # Runs in containers, by another Python: it imports nothing of sparkd, and nothing imports it.
    "in_container": set[str](),
    "_version": set[str](),
}
"""The packages of `sparkd/`, lowest first, and the packages that each may import."""


LIBRARIES = {
    # Each of these libraries could be replaced in a day: only these modules know it.
    "sanic": {"sparkd.gateway.http"},
    "podman": {"sparkd.adapters.podman.client"},
    "requests": {"sparkd.adapters.podman.client"},
    "dbus_fast": {"sparkd.adapters.systemd.user_manager"},
    # For hubs, with their redirects and TLS, and for `sparkctl` as a client of the gateway. Model
    # servers have a transport of their own, `adapters.engine.transport`.
    "httpx": {"sparkd.adapters.hub", "sparkd.adapters.gateway_client"},
    "rich": {"sparkd.sparkctl.commands.pull", "sparkd.sparkctl.commands.top"},
    "sdnotify": {"sparkd.adapters.systemd.notify"},
    "psutil": {"sparkd.adapters.proc.processes"},
    "prometheus_client": {"sparkd.adapters.prometheus"},
    # For locks, and for the number of written bytes that the peer has not acknowledged.
    "fcntl": {
        *("sparkd.adapters.flock", "sparkd.adapters.links"),
        "sparkd.in_container",
    },
    # The parser takes a text and returns a tree, so the core may use it.
    "yaml": {"sparkd.core.config", "sparkd.core.diagnosis", "sparkd.core.clients.integrations"},
}
"""The libraries that few modules may import, and these modules or packages."""

IMPURE = ("asyncio", "os", "socket", "subprocess", "time", "select", "threading")
"""The modules of the standard library that the core may not import."""

SUBPACKAGES = {
    # An adapter knows one outside thing. Podman's API service is a unit with a log.
    "adapters.podman": {"adapters.systemd", "adapters.journal"},
    "adapters.systemd": set[str](),
    "adapters.journal": {"adapters.commands"},
    "adapters.engine": set[str](),
    "adapters.proc": {"adapters.commands"},
    "adapters.files": set[str](),
    # The code that knows Sanic knows nothing else of the gateway.
    "gateway.http": set[str](),
    # A start ends nothing but itself.
    "lifecycle.start": {"lifecycle.deaths"},
}
"""Packages whose imports inside their parent package are limited, and the permitted ones."""

SOURCES = {module_name(path): path for path in PATHS}
MODULES = [name for name in SOURCES if name != "sparkd"]
PACKAGES = [name for name, path in SOURCES.items() if path.name == "__init__.py"]
MODULES_MOST = 12
"""The most modules in one package, where its subject does not ask for more."""
LARGE = {"sparkd.sparkctl.commands"}
"""Packages with one module for each of many things that users name."""


def imported_by(source: ast.AST, *, at_import_only: bool = False) -> Iterator[str]:
    """The modules that a source imports.

    With `at_import_only`, imports inside functions and for types only are left out.
    """
    for node in ast.iter_child_nodes(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in SOURCES else node.module
        elif at_import_only and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ):
            continue
        elif not isinstance(node, ast.expr):
            yield from imported_by(node, at_import_only=at_import_only)


IMPORTS = {name: set(imported_by(tree(path))) for name, path in SOURCES.items()}


def is_in(module: str, place: str) -> bool:
    """Whether a module is the place, or is inside of it."""
    return module == place or module.startswith(f"{place}.")


def room_of(module: str) -> str:
    """The package or module directly below `sparkd` that holds a module."""
    return module.split(".")[1]


def ours(module: str) -> set[str]:
    return {name for name in IMPORTS[module] if is_in(name, "sparkd") and name != "sparkd"}


def circle(graph: dict[str, set[str]]) -> tuple[str, ...]:
    """A path through the graph that ends where it begins, or nothing."""
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> tuple[str, ...]:
        if node in trail:
            return (*trail[trail.index(node) :], node)
        if node not in done:
            for used in sorted(graph.get(node, ())):
                if found := visit(used, (*trail, node)):
                    return found
            done.add(node)
        return ()

    for node in sorted(graph):
        if found := visit(node, ()):
            return found
    return ()


def test_root_package_imports_its_version_only() -> None:
    assert IMPORTS["sparkd"] <= {"__future__", "sparkd._version"}


def test_table_names_each_package_and_no_other() -> None:
    assert set(MAY_IMPORT) == {room_of(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_the_packages_that_its_own_may(module: str) -> None:
    room = room_of(module)
    assert {room_of(name) for name in ours(module)} - {room} <= MAY_IMPORT[room]


def test_every_permission_is_used() -> None:
    for room, permitted in MAY_IMPORT.items():
        used = {room_of(n) for m in MODULES if room_of(m) == room for n in ours(m)} - {room}
        assert used == permitted, room


def test_permissions_form_no_circle() -> None:
    assert circle(MAY_IMPORT) == ()


@pytest.mark.parametrize("package", SUBPACKAGES)
def test_package_imports_only_permitted_siblings(package: str) -> None:
    parent, full = f"sparkd.{package.rsplit('.', 1)[0]}", f"sparkd.{package}"
    permitted = {f"sparkd.{name}" for name in SUBPACKAGES[package]}
    used = {n for m in MODULES if is_in(m, full) for n in ours(m) if is_in(n, parent)}
    beside = {name for name in used if not is_in(name, full)}
    assert {name for name in beside if not any(is_in(name, p) for p in permitted)} == set()
    assert {p for p in permitted if not any(is_in(name, p) for name in beside)} == set()


@pytest.mark.parametrize("parent", PACKAGES)
def test_children_of_a_package_form_no_circle(parent: str) -> None:
    depth = parent.count(".") + 1
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if is_in(module, parent) and module != parent:
            child = module.split(".")[depth]
            inside = {n for n in ours(module) if is_in(n, parent) and n != parent}
            graph.setdefault(child, set()).update({n.split(".")[depth] for n in inside} - {child})
    assert circle(graph) == ()


def test_modules_form_no_circle() -> None:
    graph = {
        name: {used for used in imported_by(tree(path), at_import_only=True) if used in SOURCES}
        for name, path in SOURCES.items()
    }
    assert circle(graph) == ()


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_is_imported_in_its_places_only(library: str) -> None:
    users = {name for name in MODULES if any(is_in(used, library) for used in IMPORTS[name])}
    places = LIBRARIES[library]
    assert {name for name in users if not any(is_in(name, place) for place in places)} == set()
    assert {place for place in places if not any(is_in(name, place) for name in users)} == set()


def test_core_is_pure() -> None:
    core = [module for module in MODULES if room_of(module) == "core"]
    impure = {(m, used) for m in core for used in IMPORTS[m] if used.split(".")[0] in IMPURE}
    assert impure == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_small(package: str) -> None:
    modules = [
        name for name in MODULES if name.rpartition(".")[0] == package and name not in PACKAGES
    ]
    assert (len(modules) <= MODULES_MOST) == (package not in LARGE), len(modules)


def test_unit_tests_mirror_the_tree() -> None:
    """The tests of a package are in the directory of its name; project/ tests the project."""
    unit = ROOT / "tests/unit"
    folders = {p.parent.relative_to(unit).as_posix() for p in unit.rglob("test_*.py")}
    packages = {name.removeprefix("sparkd").strip(".").replace(".", "/") for name in PACKAGES}
    assert folders <= packages | {"project"}


def test_code_inside_of_texts_imports_modules_that_exist() -> None:
    """Tests and tools run programs from string constants, which no linter reads."""
    sources = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "packaging/bin").iterdir()]
    named = {
        (path.relative_to(ROOT).as_posix(), module)
        for path in sources
        for module in re.findall(r"(?:from|import) (sparkd(?:\.\w+)+)", path.read_text())
    }
    assert {(path, module) for path, module in named if module not in SOURCES} == set()
