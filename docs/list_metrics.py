"""Writes the table of docs/metrics.md from the registry: python docs/list_metrics.py"""

from __future__ import annotations

import re
from pathlib import Path

from kilter.evaluation.metrics import STANDARD, metrics

PAGE = Path(__file__).with_name("metrics.md")
BEGIN, END = "<!-- metrics -->\n", "<!-- end of metrics -->"
BETTER = {"higher": "higher", "lower": "lower", None: "neither"}


def table() -> str:
    """A row per metric; those of `standard` first and in bold."""
    known = dict(metrics)
    ordered = [*STANDARD, *sorted(name for name in known if name not in STANDARD)]
    rows = [_row(name, known[name]) for name in ordered]
    return "\n".join(["| metric | what it is | unit | better | needs |", "|---|---|---|---|---|", *rows, ""])


def _row(name: str, cls: type) -> str:
    facts = cls.facts
    first = (cls.__doc__ or "").strip().split("\n\n")[0]
    needs = ", ".join(sorted(facts.needs - {"answers"})) or "answers"
    shown = f"**`{name}`**" if name in STANDARD else f"`{name}`"
    text = re.sub(r"\s+", " ", first).replace("|", "\\|")
    return f"| {shown} | {text} | {facts.unit} | {BETTER[facts.better]} | {needs} |"


def page(text: str) -> str:
    """The page with the table that the registry gives."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {PAGE}")
