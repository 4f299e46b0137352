"""docs/methods: one page per method, written from the methods themselves, so that it cannot drift."""

from __future__ import annotations

import json
from pathlib import Path

from kilter.objectives.describe import FAMILIES, describe, page
from kilter.objectives.registry import objectives

RESULTS = "results.json"
"""In the folder of the pages: what the comparison found, a sentence per method. Written by `kilter compare --publish`."""


def pages(folder: Path) -> dict[str, str]:
    """File name to text, README.md included."""
    path = folder / RESULTS
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = [describe(n) for n in objectives.names()]
    out = {f"{d.name}.md": page(d, results.get(d.name, "")) for d in found}
    lines = [
        "# Methods",
        "",
        f"{len(found)} methods behind one loop. `kilter methods` prints this list, `kilter methods NAME` a page; `kilter methods --write docs/methods` writes these files.",
        "",
    ]
    for family in FAMILIES.values():
        lines += [f"## {family[0].upper()}{family[1:]}", "", "| method | what it is |", "|---|---|"]
        lines += [f"| [{d.name}]({d.name}.md) | {d.summary} |" for d in found if d.family == family] + [""]
    out["README.md"] = "\n".join(lines)
    return out


def write_pages(folder: Path) -> int:
    """Writes the pages; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = pages(folder)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return len(texts)
