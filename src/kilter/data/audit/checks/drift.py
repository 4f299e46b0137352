"""Whether the labels change along the data, by time or by the order of the file."""

from __future__ import annotations

import datetime as dt
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2_contingency

from kilter.data.audit.check import Check, Context, families, warn_if
from kilter.data.audit.checks.position import PLACED
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row

TIMES = ("created_at", "annotated_at", "timestamp", "tstamp", "date", "datetime", "time", "created")
"""Columns that say when a row was labelled; the first one counts."""

PARTS, FEWEST = 10, 200
CHANCE, FAR = 1e-4, 0.25

LABELS: Mapping[str, Callable[[Row], bool | None]] = {
    "the better answer is longer": lambda r: (
        None if r.sides is None or len(r.sides[0]) == len(r.sides[1]) else len(r.sides[0]) > len(r.sides[1])
    ),
    "the first answer is better": lambda r: (
        None if r.pair is None or r.format not in PLACED or len(r.texts) != 2 else r.pair[0] == 0
    ),
    "the answer is good": lambda r: (
        None if len(r.texts) != 1 or r.group.feedback[0].score is None else r.group.feedback[0].score > 0
    ),
}
"""What a label says, by what could drift."""


@families.register("label_drift")
class Drift(Check):
    """Ten parts of the data in order, and a chi-squared test that their labels are alike."""

    rules = (
        Rule(
            "label_drift",
            "Labels over time",
            "labels that change along the data come from different guidelines or people",
            "ask what changed, shuffle the rows, and learn from the later ones if the guideline was mended",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.times = array("d")
        self.timed = 0
        self.values = {name: array("b") for name in LABELS}

    def see(self, row: Row) -> None:
        """Notes when a row was labelled, and what its label says."""
        when = moment(row.column(*TIMES))
        self.timed += when is not None
        self.times.append(row.index if when is None else when)
        for name, read in LABELS.items():
            value = read(row)
            self.values[name].append(-1 if value is None else value)

    def findings(self) -> Iterator[Finding]:
        """The label that drifts most."""
        n = len(self.times)
        by_time = self.timed == n
        order = np.argsort(np.frombuffer(self.times, float), kind="stable") if by_time else np.arange(n)
        found = [
            (name, shares, p)
            for name, values in self.values.items()
            if (tested := _tested(np.frombuffer(values, np.int8)[order])) is not None
            for shares, p in [tested]
        ]
        if not found:
            yield self.unchecked("label_drift", f"fewer than {FEWEST} labels")
            return
        name, shares, p = min(found, key=lambda entry: entry[2])
        spread = float(max(shares) - min(shares))
        along = "time" if by_time else "the order of the file (no column says when)"
        value = f"{name} in {min(shares):.0%} to {max(shares):.0%} of each tenth along {along}, p = {p:.1g}"
        head = ("", *(f"{i + 1}" for i in range(PARTS)))
        table = [(label, *(f"{s:.0%}" for s in parts)) for label, parts, _ in found]
        level = warn_if(p < CHANCE and spread > FAR)
        yield self.found("label_drift", level, value, (), head, table, spread=spread, p=p)


def _tested(values: npt.NDArray[np.int8]) -> tuple[list[float], float] | None:
    """(share in each tenth, p of no change); None where labels are few or all the same."""
    known = values[values >= 0]
    if len(known) < FEWEST or len(np.unique(known)) < 2:
        return None
    parts = np.array_split(known, PARTS)
    table = np.array([[int(part.sum()), len(part) - int(part.sum())] for part in parts])
    return [float(part.mean()) for part in parts], float(chi2_contingency(table).pvalue)


def moment(value: Any) -> float | None:
    """Seconds, of a number or a date as text; None of anything else."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    try:
        return dt.datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError):
        return None
