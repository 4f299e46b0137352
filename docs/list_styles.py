"""Writes the table of docs/response-classifier.md from what was measured: python docs/list_styles.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kilter.evaluation.response.reading import measured

PAGE = Path(__file__).with_name("response-classifier.md")
BEGIN, END = "<!-- measured -->\n", "<!-- end of measured -->"
AIMS = {"sensitivity": 0.9, "specificity": 0.95}
WRITERS = {
    "coconot-a": 'CoCoNot, unnamed model a ("As an AI language model")',
    "coconot-b": "CoCoNot, unnamed model b",
    "coconot-c": 'CoCoNot, unnamed model c ("I apologize, but")',
    "gpt-4": "CoCoNot, GPT-4",
    "hh": "HH-RLHF, Anthropic's model: answers with a sign of declining",
    "hh-random": "HH-RLHF, the same: 150 answers drawn at random",
    "alpaca": "LLaMA-Factory's Alpaca demonstrations",
    "dpo_en": "LLaMA-Factory's DPO pairs, several models",
    "oasst": "OASST, many people",
}
"""Whose answers a style holds."""


def table() -> str:
    """A row per style that was left out, then all of them."""
    found = measured(second=True)
    rows = [_row(WRITERS[style], found["by_style"][style]) for style in WRITERS]
    head = ["| whose answers | refusals found | help let pass | aims |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, _row("**all**", found), ""])


def _row(name: str, rates: dict[str, Any]) -> str:
    cells, missed, open_ = [], [], []
    for rate, size in (("sensitivity", "n_positive"), ("specificity", "n_negative")):
        n = rates[size]
        if not n:
            cells.append("none")
            continue
        low, high = rates["intervals"][rate]
        cells.append(f"{rates[rate]:.3f} [{low:.3f}, {high:.3f}], {round(rates[rate] * n)} of {n}")
        if rates[rate] < AIMS[rate]:
            missed.append(rate)
        elif low < AIMS[rate]:
            open_.append(rate)
    said = f"misses {' and '.join(missed)}" if missed else "reached"
    said += f", {' and '.join(open_)} not proven" if open_ else ""
    return f"| {name} | {cells[0]} | {cells[1]} | {said} |"


def main() -> None:
    """Replaces the table between its marks."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
