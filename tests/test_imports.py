"""Imports run one way: between the packages, between the rooms of a package, and between modules."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "resam_runtime": ROOT / "runtime" / "resam_runtime",
    "resam": ROOT / "resam",
    "resam_export": ROOT / "export" / "resam_export",
    "resam_benchmarks": ROOT / "benchmarks" / "resam_benchmarks",
}  # each imports from those before it


def _modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for file in folder.rglob("*.py"):
            names = [package, *file.relative_to(folder).with_suffix("").parts]
            found[".".join(names[:-1] if names[-1] == "__init__" else names)] = file
    return found


MODULES = _modules()


def _imported(file: Path) -> Iterator[str]:
    """All that a file imports, inside functions too, but for what is there for types alone."""
    waiting: list[ast.AST] = [ast.parse(file.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_of(name: str) -> str:
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


IMPORTS = {module: {_module_of(name) for name in _imported(file)} - {module, ""} for module, file in MODULES.items()}


def _room(module: str) -> str:
    """The first folder inside the package; a file that lies in no folder is a room of its own."""
    return ".".join(module.split(".")[:2])


def _floors(group: Callable[[str], str]) -> list[str]:
    """The groups in an order in which each imports only from those before it; `CycleError` where there is none."""
    graph: dict[str, set[str]] = {}
    for module, targets in IMPORTS.items():
        graph.setdefault(group(module), set()).update(group(target) for target in targets)
    return list(TopologicalSorter({name: targets - {name} for name, targets in graph.items()}).static_order())


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert set(_floors(str)) == set(MODULES)


def test_the_rooms_of_a_package_import_one_way() -> None:
    assert "resam_runtime.segment" in _floors(_room)


def test_the_packages_import_one_way() -> None:
    assert _floors(lambda module: module.split(".")[0]) == list(PACKAGES)
