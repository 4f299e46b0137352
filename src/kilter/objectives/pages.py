"""docs/methods: one page per method, written from the methods themselves, so that it cannot drift."""

from __future__ import annotations

import json
from pathlib import Path

from kilter.artifacts import write_text
from kilter.objectives import index
from kilter.objectives.describe import FAMILIES, describe, page

RESULTS = Path(__file__).with_name("results.json")
"""What the project's own comparisons found, a sentence per method and study.

`kilter compare RECIPE --publish` writes it.
"""


def results() -> dict[str, list[str]]:
    """Method to sentences, one per study, for the methods that were compared."""
    found: dict[str, dict[str, str]] = (
        json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    )
    return {method: list(studies.values()) for method, studies in found.items()}


def pages() -> dict[str, str]:
    """File name to text, README.md included."""
    compared = results()
    found = [describe(n) for n in index.live()["methods"]]
    out = {f"{d.name}.md": page(d, compared.get(d.name, [])) for d in found}
    lines = [
        "# Methods",
        "",
        f"{len(found)} methods behind one loop. `kilter methods` prints this list, "
        "`kilter methods NAME` a page; `kilter methods --write docs/methods` writes these files.",
        "",
    ]
    for family in FAMILIES.values():
        lines += [f"## {family[0].upper()}{family[1:]}", "", "| method | what it is |", "|---|---|"]
        lines += [f"| [{d.name}]({d.name}.md) | {d.summary} |" for d in found if d.family == family] + [""]
    out["README.md"] = "\n".join(lines)
    return out


def write_pages(folder: Path) -> int:
    """Writes the pages, and the index beside the methods where it is out of date; returns how many pages."""
    index.write()
    texts = pages()
    for name, text in texts.items():
        write_text(folder / name, text)
    return len(texts)
