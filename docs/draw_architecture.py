"""Draws docs/architecture.svg from the imports: python docs/draw_architecture.py

Rows are the rooms from the doors down to the ground, columns the same rooms. A dot says that the row's room imports the
column's; the larger, the more files do. Imports run down, so every dot lies to the right of the diagonal.
The floors are those that tests/test_imports.py holds, and a test there draws the picture again and compares.
"""

from __future__ import annotations

import ast
import html
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "architecture.svg"

GROUND = "ground"
"""The files of the ground floor are one row: everything imports them."""

LEFT, TOP, ROW, CELL = 560, 150, 30, 34
INK, FAINT, DOT = "#1b2733", "#d8dee6", "#2f6f9f"
BANDS = ("#f4f7fa", "#e9eff5")


def rooms(floors: tuple[set[str], ...]) -> list[tuple[int, str]]:
    """(floor, room) from the top down; the ground floor is one room."""
    above = [
        (level, name)
        for level in range(len(floors) - 1, 0, -1)
        for name in sorted(floors[level])
        if purpose(name)
    ]
    return [*above, (0, GROUND)]


def purpose(room: str) -> str:
    """The first sentence of the room's own docstring; empty where the room does not exist."""
    if room == GROUND:
        return "Nouns, seams, registries, artifacts, statistics, progress, errors."
    folder, file = ROOT / "src/kilter" / room / "__init__.py", ROOT / f"src/kilter/{room}.py"
    path = folder if folder.is_file() else file
    if not path.is_file():
        return ""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.split("\n")[0].strip()


def arrows(edges: dict[str, list[str]], ground: set[str]) -> Counter[tuple[str, str]]:
    """(importing room, imported room) -> number of importing files."""
    found: Counter[tuple[str, str]] = Counter()
    for name, targets in edges.items():
        mine = place(name, ground)
        for theirs in {place(target, ground) for target in targets if "." in target} - {mine}:
            found[mine, theirs] += 1
    return found


def place(module: str, ground: set[str]) -> str:
    """The room of a module."""
    room = module.split(".")[1] if "." in module else module
    return GROUND if room in ground else room


def draw(floors: tuple[set[str], ...], edges: dict[str, list[str]]) -> str:
    """The picture as SVG text."""
    order = rooms(floors)
    count = arrows(edges, floors[0])
    column = {name: i for i, (_, name) in enumerate(order)}
    width, height = LEFT + CELL * len(order) + 20, TOP + ROW * len(order) + 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="16" y="32" font-size="19" font-weight="600">Kilter: rooms, and which imports which</text>',
        '<text x="16" y="56">Each room imports only rooms below it.</text>',
        '<text x="16" y="76">A dot: the room of the row imports the room of the column.</text>',
    ]

    # A band per floor: neighbours on one floor do not import each other.
    for i, (level, _) in enumerate(order):
        y = TOP + ROW * i
        out.append(f'<rect x="0" y="{y}" width="{width}" height="{ROW}" fill="{BANDS[level % 2]}"/>')
    for i, (_, name) in enumerate(order):
        y = TOP + ROW * i
        out.append(f'<text x="16" y="{y + 20}" font-weight="600">{name}</text>')
        out.append(
            f'<text x="120" y="{y + 20}" font-size="11.5">{html.escape(shorten(purpose(name)))}</text>'
        )
        x = LEFT + CELL * i + CELL / 2
        out.append(f'<text transform="translate({x + 4},{TOP - 8}) rotate(-60)">{name}</text>')
        out.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{TOP + ROW * len(order)}" stroke="{FAINT}"/>')
        out.append(f'<rect x="{x - 4}" y="{y + ROW / 2 - 4}" width="8" height="8" fill="{INK}"/>')

    # Dots grow with the square root of the files, so that one file is still seen.
    for (mine, theirs), files in sorted(count.items()):
        if mine not in column or theirs not in column:
            continue
        x, y = LEFT + CELL * column[theirs] + CELL / 2, TOP + ROW * column[mine] + ROW / 2
        radius = min(11.0, 2.6 + 1.3 * files**0.5)
        out.append(
            f'<circle cx="{x}" cy="{y}" r="{radius:.1f}" fill="{DOT}">'
            f"<title>{mine} imports {theirs}: {files} files</title></circle>"
        )
    out.append(
        f'<text x="16" y="{height - 18}" font-size="11.5">Squares mark the diagonal. '
        "Drawn from the imports by docs/draw_architecture.py.</text>"
    )
    return "\n".join([*out, "</svg>"]) + "\n"


def shorten(text: str, limit: int = 74) -> str:
    """At most `limit` characters, cut at a word."""
    return text if len(text) <= limit else text[: limit - 2].rsplit(" ", 1)[0] + " ..."


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    from test_imports import EDGES, FLOORS

    TARGET.write_text(draw(FLOORS, EDGES))
    print(f"written: {TARGET}")
