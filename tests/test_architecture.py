"""The house as docs/architecture.md draws it: who may import whom, no circles, and rooms that stay small.

Imports are read from the source, those inside functions too; what only type checkers import is left out. The tables
come first; the helpers take any package, and the last tests show each of them finding what it is there to find.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

import dynamics

ROOT = Path(dynamics.__file__).parent

# ---------------------------------------------------------------------------------------------------------- the tables

COMMON = ("faces", "errors", "validation", "reporting", "cache", "predicted", "version")

#: Each room with the rooms that it may import, lowest first: a room's own stand above it here. "" is the package's
#: face, `dynamics/__init__.py`.
ROOMS: dict[str, tuple[str, ...]] = {
    "faces": (),
    "errors": (),
    "cache": ("errors",),
    "reporting": (),
    "predicted": (),
    "version": (),
    "validation": ("errors",),
    "ops": COMMON,
    "regularizers": (*COMMON, "ops"),
    "recipe": (*COMMON, "regularizers"),
    "corpus": COMMON,
    "records": COMMON,
    "training": (*COMMON, "ops", "regularizers", "recipe", "corpus", "records"),
    "analysis": (*COMMON, "regularizers", "records"),
    "plots": (*COMMON, "regularizers", "records", "analysis"),
    "explorer": (*COMMON, "records", "analysis"),
    "example": (*COMMON, "records"),
    "study": (*COMMON, "recipe", "records", "training"),
    "cli": (*COMMON, "recipe", "corpus", "records", "training", "analysis", "plots", "explorer", "example", "study"),
    "__main__": ("cli",),
    "": (
        *COMMON,
        "regularizers",
        "recipe",
        "corpus",
        "records",
        "training",
        "analysis",
        "plots",
        "explorer",
        "example",
    ),
}

DOORS = "the doors"

#: The floors of these rooms, lowest first: a folder may import itself and the folders before it. The modules that lie
#: directly in a room are its doors.
FLOORS: dict[str, tuple[str, ...]] = {
    "training": (
        "environment",
        "batches",
        "head",
        "loop",
        "resuming",
        "recording",
        "driving",
        "preparation",
        DOORS,
    ),
    "analysis": ("tokens", "sums", "intervals", "estimands", "comparisons"),
    "records": (DOORS, "exporting", "summaries"),
    "plots": ("drawing", "families", "arm_tables", DOORS),
}

#: One item a file, as many as there are.
CATALOGUES = ("dynamics.plots", "dynamics.plots.families", "dynamics.regularizers")

#: Rooms that are being rebuilt, whose own imports, circles and sizes are not looked at. Empty when they are done.
UNFINISHED: tuple[str, ...] = ()

MOST_MODULES, MOST_LINES, LONGEST_FUNCTION = 10, 400, 80

# --------------------------------------------------------------------------------------------------------- the helpers

Graph = Mapping[str, set[str]]


def modules_of(root: Path) -> dict[str, Path]:
    """Return the modules of the package in `root` by their dotted names; a folder's is its ``__init__``."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: Iterable[str]) -> set[str]:
    """Return which of the `known` modules a module imports, wherever in it, but for type checkers."""
    known, found = set(known), set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in known else source)
    return (found & known) - {name}


def runtime_nodes(tree: ast.AST) -> Iterable[ast.AST]:
    """Walk a tree without the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from runtime_nodes(other)
            continue
        yield child
        yield from runtime_nodes(child)


def import_graph(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    return {name: imports_of(name, path, modules) for name, path in modules.items()}


def wrong_rooms(graph: Graph, rooms: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Say which imports go from a room to one that it may not import, and which modules are in no room."""
    found = []
    for importer, imported in graph.items():
        here = room_of(importer)
        if here not in rooms:
            found.append(f"{importer}: {here!r} has no place in the table of rooms")
            continue
        for other in sorted(imported):
            there = room_of(other)
            if there != here and there not in rooms[here]:
                found.append(f"{importer} imports {other}")
    return found


def room_of(module: str) -> str:
    """Return the part of a module's name after the package's; "" for the package itself."""
    return (module.split(".") + [""])[1]


def wrong_floors(graph: Graph, room: str, floors: tuple[str, ...]) -> list[str]:
    """Say which imports within a room go up, from a floor to a later one."""
    found = []
    inside = {module: module.removeprefix(f"{room}.").split(".") for module in graph if module.startswith(f"{room}.")}
    floor = {module: parts[0] if parts[0] in floors else DOORS for module, parts in inside.items()}
    for importer, here in floor.items():
        for other in sorted(graph[importer]):
            if other in floor and floors.index(floor[other]) > floors.index(here):
                found.append(f"{importer} ({here}) imports {other} ({floor[other]})")
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Return the sets of names that can be reached from each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def folder_circles(graph: Graph, modules: Mapping[str, Path]) -> list[list[str]]:
    """Return the circles between folders: those that hold modules, and at every depth those that hold folders.

    The package's own folder is left out, since its face imports everything.
    """
    by_folder: dict[str, set[str]] = {}
    beside: dict[str, set[str]] = {}
    for importer, imported in graph.items():
        for other in imported:
            here, there = folder_of(importer, modules), folder_of(other, modules)
            if here != there and "." in here and "." in there:
                by_folder.setdefault(here, set()).add(there)
            first, second = importer.split("."), other.split(".")
            depth = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
            if depth is not None:
                beside.setdefault(".".join(first[: depth + 1]), set()).add(".".join(second[: depth + 1]))
    found = circles(by_folder) + circles(beside)
    return [list(names) for names in dict.fromkeys(map(tuple, found))]


def folder_of(module: str, modules: Mapping[str, Path]) -> str:
    return module if modules[module].name == "__init__.py" else module.rpartition(".")[0]


def crowded(modules: Mapping[str, Path], most: int) -> list[str]:
    """Say which folders hold more than `most` modules, ``__init__`` not counted."""
    held: dict[str, int] = {}
    for name, path in modules.items():
        if path.name != "__init__.py":
            held[name.rpartition(".")[0]] = held.get(name.rpartition(".")[0], 0) + 1
    return [f"{folder} holds {n} modules" for folder, n in sorted(held.items()) if n > most]


def too_long(modules: Mapping[str, Path], most_lines: int, longest_function: int) -> list[str]:
    """Say which modules and which functions, from ``def`` to their last line, are too long."""
    found = []
    for name, path in modules.items():
        source = path.read_text(encoding="utf-8")
        if (n := len(source.splitlines())) > most_lines:
            found.append(f"{name} has {n} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if (n := node.end_lineno - node.lineno + 1) > longest_function:
                    found.append(f"{name}.{node.name} has {n} lines")
    return found


def unnamed_folders(root: Path, document: str) -> list[str]:
    """Return the folders of a package, "analysis/sums/", that no row of the document's tables names in backticks."""
    rows = [line for line in document.splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`([\w/]+/)`", row.split("|")[1])}
    folders = {path.parent.relative_to(root).as_posix() + "/" for path in root.rglob("__init__.py")} - {"./"}
    return sorted(folders - named)


# ----------------------------------------------------------------------------------------------------------- the tests


def finished(name: str) -> bool:
    return not any(name == room or name.startswith(f"{room}.") for room in UNFINISHED)


MODULES = modules_of(ROOT)
FINISHED = {name: path for name, path in MODULES.items() if finished(name)}
GRAPH = {name: imported for name, imported in import_graph(MODULES).items() if finished(name)}


def test_the_table_of_rooms_has_no_circle_and_only_rooms_that_are_there() -> None:
    seen: set[str] = set()
    for room, below in ROOMS.items():
        assert set(below) <= seen - {room} or room in COMMON, f"{room} stands above a room that it may import"
        seen.add(room)
    assert {room_of(name) for name in MODULES} == set(ROOMS)


def test_rooms_import_only_what_the_table_lets_them() -> None:
    assert wrong_rooms(GRAPH, ROOMS) == []


@pytest.mark.parametrize("room", FLOORS)
def test_within_a_room_imports_go_down(room: str) -> None:
    folders = {name.split(".")[2] for name in MODULES if name.startswith(f"dynamics.{room}.") and name.count(".") > 2}
    assert folders == set(FLOORS[room]) - {DOORS}
    assert wrong_floors(GRAPH, f"dynamics.{room}", FLOORS[room]) == []


def test_every_room_of_several_folders_has_its_floors() -> None:
    deep = {name.split(".")[1] for name in MODULES if name.count(".") > 2}
    assert deep == set(FLOORS)


def test_no_circles() -> None:
    assert circles(GRAPH) == []
    assert folder_circles(GRAPH, MODULES) == []


def test_no_folder_is_crowded() -> None:
    catalogues = {name: path for name, path in FINISHED.items() if name.startswith(CATALOGUES)}
    assert crowded({name: path for name, path in FINISHED.items() if name not in catalogues}, MOST_MODULES) == []


def test_no_module_and_no_function_is_too_long() -> None:
    assert too_long(FINISHED, MOST_LINES, LONGEST_FUNCTION) == []


def test_the_document_names_every_folder() -> None:
    document = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert unnamed_folders(ROOT, document) == []


# -------------------------------------------------------------------------------------- the helpers find what they must

TREE = {
    "__init__.py": "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import house.right.high\nelse:\n    import house.left\n",
    "left/__init__.py": "",
    "left/low.py": "def late():\n    from house.right.high import top\n    return top\n",
    "left/other.py": "from . import low\nfrom house.left import missing_name\n",
    "right/__init__.py": "",
    "right/high.py": "import house.left.low\ntop = 1\n",
    "right/deep/__init__.py": "",
    "right/deep/one.py": "from ..high import top\nfrom house.right.deep import two\n",
    "right/deep/two.py": "from house.right.deep.one import top\n",
    "stray.py": "",
}


@pytest.fixture
def house(tmp_path: Path) -> dict[str, Path]:
    for name, content in TREE.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return modules_of(tmp_path / "house")


def test_imports_are_found_wherever_they_stand(house: dict[str, Path]) -> None:
    assert import_graph(house) == {
        "house": {"house.left"},  # not what type checkers import
        "house.left": set(),
        "house.left.low": {"house.right.high"},  # inside a function
        "house.left.other": {"house.left", "house.left.low"},  # relative; a name that is no module
        "house.right": set(),
        "house.right.high": {"house.left.low"},
        "house.right.deep": set(),
        "house.right.deep.one": {"house.right.high", "house.right.deep.two"},
        "house.right.deep.two": {"house.right.deep.one"},
        "house.stray": set(),
    }


def test_a_wrong_import_and_a_room_without_a_place_are_told(house: dict[str, Path]) -> None:
    graph = import_graph(house)
    rooms: dict[str, tuple[str, ...]] = {"left": (), "right": ("left",), "": ("left",)}
    assert wrong_rooms(graph, rooms) == [
        "house.left.low imports house.right.high",
        "house.stray: 'stray' has no place in the table of rooms",
    ]
    assert wrong_rooms(graph, {"left": ("right",), "right": ("left",), "": ("left",), "stray": ()}) == []


def test_an_import_of_a_higher_floor_is_told(house: dict[str, Path]) -> None:
    graph = import_graph(house)
    assert wrong_floors(graph, "house.right", (DOORS, "deep")) == []
    assert wrong_floors(graph, "house.right", ("deep", DOORS)) == [
        f"house.right.deep.one (deep) imports house.right.high ({DOORS})"
    ]


def test_circles_of_modules_and_of_folders_are_told(house: dict[str, Path]) -> None:
    graph = import_graph(house)
    assert circles(graph) == [["house.left.low", "house.right.high"], ["house.right.deep.one", "house.right.deep.two"]]
    assert ["house.left", "house.right"] in folder_circles(graph, house)
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    # No module is in a circle here, but the folders are: a.x -> b.y, b.z -> a.w.
    apart = {"p.a.x": {"p.b.y"}, "p.b.y": set(), "p.b.z": {"p.a.w"}, "p.a.w": set()}
    assert circles(apart) == []
    assert folder_circles(apart, {name: Path("m.py") for name in apart}) == [["p.a", "p.b"]]


def test_crowded_folders_are_told(house: dict[str, Path]) -> None:
    assert crowded(house, 2) == []
    assert crowded(house, 1) == ["house.left holds 2 modules", "house.right.deep holds 2 modules"]


def test_long_modules_and_functions_are_told(house: dict[str, Path]) -> None:
    assert too_long(house, 5, 3) == []
    assert too_long(house, 4, 2) == ["house has 5 lines", "house.left.low.late has 3 lines"]


def test_folders_that_the_document_leaves_out_are_told(house: dict[str, Path]) -> None:
    document = "`right/deep/` in a sentence\n\n| room | |\n|---|---|\n| `left/`, `right/` | what `right/deep/` has |\n"
    assert unnamed_folders(house["house"].parent, document) == ["right/deep/"]
