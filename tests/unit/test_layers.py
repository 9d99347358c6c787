# SPDX-License-Identifier: Apache-2.0
"""Who may import whom. The tables below are the architecture; the code is held against them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from .sources import PATHS, module_name, tree

LOOKS_AND_ACTS = """
blobs deaths endings ensure events eviction examine garbage gpudevices guard housekeeping launch
leases loadwatch metrics podmanservice presence proxy pull queue reap runtime sampling scheduler
sessions sleep starter statistics status stop supervisor tending top view world
"""
LAYERS = {
    # Pure: no I/O, no clock; time comes as an argument.
    "L0": {"sparkd.core"},
    # One outside thing each, no decisions.
    "L1": {"sparkd.adapters"},
    # Looks and acts.
    "L2": {f"sparkd.{name}" for name in LOOKS_AND_ACTS.split()},
    # By what people, programs and timers reach us.
    "web": {"sparkd.web"},
    "daemon": {"sparkd.daemon", "sparkd.__main__"},
    "cli": {"sparkd.cli", "sparkd.commands"},
    "idle": {"sparkd.idle", "sparkd.comeback"},
    # Runs in containers, by another Python: nothing of us, and nobody of us imports it.
    "inside": {"sparkd.inside"},
    # The number of the release; the package itself repeats it.
    "version": {"sparkd._version"},
}

MAY_IMPORT = {
    "L0": {"L0"},
    # Adapters do not know each other, but for these: one writes files for whoever has records,
    # one is what `upstream` speaks HTTP by, one asks systemd for readings of the host.
    "L1": {
        *("L0", "sparkd.adapters.files", "sparkd.adapters.systemctl"),
        "sparkd.adapters.transport",
    },
    "L2": {"L0", "L1", "L2"},
    # The command line and the idle pass work when the daemon is dead, so they know nothing of it.
    "web": {"L0", "L1", "L2", "version", "web"},
    "daemon": {"L0", "L1", "L2", "version", "web", "daemon"},
    "cli": {"L0", "L1", "L2", "version", "cli"},
    "idle": {"L0", "L1", "L2"},
    "inside": set[str](),
    "version": set[str](),
}

PLACES = {
    # Each of these libraries could be replaced in a day: only these modules know it.
    "sanic": {"web", "daemon"},
    "podman": {"sparkd.adapters.podman"},
    "requests": {"sparkd.adapters.podman"},
    "dbus_fast": {"sparkd.adapters.systemd"},
    # Models by a transport of our own; the hub, with its redirects and TLS, and our own gateway,
    # as its clients do, by httpx's.
    "httpx": {
        *("sparkd.adapters.upstream", "sparkd.adapters.transport", "sparkd.adapters.hub"),
        "sparkd.adapters.gateway",
    },
    "rich": {"sparkd.commands.pull", "sparkd.commands.top"},
    "sdnotify": {"sparkd.adapters.notify"},
    "psutil": {"sparkd.adapters.host"},
    "prometheus_client": {"sparkd.adapters.exposition"},
    # For locks, and for how much of what was written is not acknowledged yet.
    "fcntl": {"sparkd.adapters.flock", "sparkd.adapters.transport", "inside"},
    # The parser takes a text and gives a tree, so the core may use it.
    "yaml": {"L0"},
    # What would make the core impure is not in the core.
    "asyncio": {"L1", "L2", "web", "daemon", "cli", "idle", "inside"},
    "os": {"L1", "L2", "daemon", "cli", "idle", "inside"},
    "socket": {"L1", "daemon", "cli"},
    "subprocess": {"L1", "cli"},
    "time": {"L1", "L2", "web", "daemon", "cli"},
}


SOURCES = {module_name(path): path for path in PATHS}


def imported_by(source: ast.AST, *, at_import_only: bool = False) -> Iterator[str]:
    """The modules that a source imports; those of functions and for types only are left out if
    only what happens at import is asked for."""
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


MODULES = [name for name in SOURCES if name != "sparkd"]


def is_part(module: str, place: str) -> bool:
    """Whether a module is the place, or in it; a place is a layer, a package or a module."""
    prefixes = LAYERS.get(place, {place})
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def is_part_of_any(module: str, places: set[str]) -> bool:
    return any(is_part(module, place) for place in places)


def layer_of(module: str) -> str:
    (layer,) = (layer for layer in LAYERS if is_part(module, layer))
    return layer


def test_package_itself_says_its_version_and_no_more() -> None:
    assert IMPORTS["sparkd"] <= {"__future__", "sparkd._version"}


@pytest.mark.parametrize("module", MODULES)
def test_module_is_in_one_layer(module: str) -> None:
    layers = [layer for layer in LAYERS if is_part(module, layer)]
    assert len(layers) == 1, f"say in LAYERS where {module} belongs"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_its_layer_may(module: str) -> None:
    allowed = MAY_IMPORT[layer_of(module)]
    ours = {name for name in IMPORTS[module] if is_part(name, "sparkd")}
    assert {name for name in ours if not is_part_of_any(name, allowed)} == set()


@pytest.mark.parametrize("library", PLACES)
def test_library_is_known_to_its_place_only(library: str) -> None:
    users = {name for name in MODULES if any(is_part(used, library) for used in IMPORTS[name])}
    assert {name for name in users if not is_part_of_any(name, PLACES[library])} == set()


@pytest.mark.parametrize("place", sorted({p for places in LAYERS.values() for p in places}))
def test_table_names_nothing_that_is_gone(place: str) -> None:
    assert any(is_part(module, place) for module in SOURCES)


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        name: {used for used in imported_by(tree(path), at_import_only=True) if used in SOURCES}
        for name, path in SOURCES.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for used in sorted(graph[module]):
                visit(used, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())
