"""Imports run down: no room imports a room above it or beside it, and no cycle is left. The source is read, not run."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import kilter

ROOT = Path(kilter.__file__).parent
GROUND = {
    "types",
    "arrays",
    "batch",
    "seams",
    "registry",
    "refs",
    "options",
    "artifacts",
    "hashes",
    "chain",
    "redaction",
    "manifest",
    "statistics",
    "progress",
    "screen",
    "errors",
    "validation",
    "version",
    "runtime",
}
FLOORS: tuple[set[str], ...] = (
    GROUND,
    {"models", "data"},
    {"objectives", "sampling"},
    {"roles"},
    {"feedback"},
    {"constitution"},
    {"evaluation", "launch"},
    {"cluster"},
    {"training"},
    {"release"},
    {"stages"},
    {"recipe"},
    {"pipeline"},
    {"study", "advice"},
    {"api"},
    {"cli"},
)
"""Rooms from the ground up. What stands on one floor does not import its neighbours, the ground floor excepted."""

LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(path: Path) -> Iterator[str]:
    """Modules of Kilter that a file imports anywhere, inside functions too; the package's own lazy doors aside."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("kilter"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("kilter"))


DOORS = {"kilter", "kilter.__main__"}
"""Above all rooms: the package's lazy doors, and `python -m kilter`."""

EDGES = {name: sorted(set(imports_of(path))) for name, path in FILES.items() if name not in DOORS}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "kilter"


def test_every_room_has_its_floor():
    assert {room(name) for name in FILES if name not in DOORS} <= set(LEVEL)


def test_no_import_runs_up():
    up = [
        f"{name} imports {target}"
        for name, targets in EDGES.items()
        for target in targets
        if target != "kilter" and room(name) != room(target) and not LEVEL[room(target)] < LEVEL[room(name)]
        if not {room(name), room(target)} <= GROUND
    ]
    assert up == []


def test_no_module_below_the_doors_imports_the_package_itself():
    """`import kilter` inside a room would reach every door, and so close a cycle."""
    assert [name for name, targets in EDGES.items() if "kilter" in targets and room(name) != "cli"] == []


def test_there_is_no_cycle():
    done: set[str] = set()
    path: list[str] = []

    def walk(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done or name not in EDGES:
            return
        path.append(name)
        for target in EDGES[name]:
            walk(target)
        path.pop()
        done.add(name)

    for name in EDGES:
        walk(name)


def test_the_picture_is_what_the_imports_say():
    """python docs/draw_architecture.py draws it again."""
    docs = Path(__file__).parents[1] / "docs"
    spec = importlib.util.spec_from_file_location("draw_architecture", docs / "draw_architecture.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (docs / "architecture.svg").read_text() == script.draw(FLOORS, EDGES)


def test_the_run_time_of_a_cluster_stays_small():
    """Peers need 1,833 to 17,000 lines for theirs. One file knows Ray."""
    files = sorted((ROOT / "cluster").glob("*.py"))
    assert sum(len(path.read_text().splitlines()) for path in files) <= 1400

    lines = re.compile(r"^ *(?:import|from) ray[ .]", re.MULTILINE)
    with_ray = [p.relative_to(ROOT).as_posix() for p in FILES.values() if lines.search(p.read_text())]
    assert with_ray == ["cluster/ray.py"]
