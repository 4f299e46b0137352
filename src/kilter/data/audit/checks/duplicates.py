"""Rows that occur twice, prompts that are nearly the same, and whether the split keeps them together."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator

from kilter.data.audit.check import Check, Context, error_if, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row, number
from kilter.data.dataset import prompt_words
from kilter.data.near import Sketches, joined, normal


@families.register("exact_duplicates")
class Duplicates(Check):
    """A distinct prompt is sketched once; clusters are joined by union-find over verified hits."""

    rules = (
        Rule(
            "exact_duplicates",
            "Rows that occur once",
            "a row that stands there k times weighs k times as much, and n is smaller than it looks",
            "keep one of each: kilter data filter --drop exact_duplicates",
        ),
        Rule(
            "near_duplicates",
            "Distinct prompts",
            "prompts that are nearly the same count several times: the effective sample is smaller",
            "keep one of each: kilter data filter --drop near_duplicates, or split_by: near_duplicates",
        ),
        Rule(
            "grouped_split",
            "Training and held-out prompts apart",
            "the held-out score measures memory where a training prompt is nearly the same",
            "set split_by: near_duplicates for this data, which keeps such prompts on one side",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows: set[int] = set()
        self.again = array("q")
        self.units: dict[int, int] = {}
        self.first, self.unit, self.held = array("q"), array("q"), array("b")
        self.sketches = Sketches()

    def see(self, row: Row) -> None:
        """Sketches a prompt that is new, and notes a row that was there before."""
        whole = number(repr((row.key, row.plain, [f.score for f in row.group.feedback])))
        if whole in self.rows and row.texts:
            self.again.append(row.index)
        self.rows.add(whole)
        words = normal(row.prompt)
        unit = self.units.setdefault(number(words), len(self.first))
        if unit == len(self.first):
            self.first.append(row.index)
            self.sketches.add(words)
        self.unit.append(unit)
        self.held.append(row.held)

    def findings(self) -> Iterator[Finding]:
        """One for each rule."""
        n = len(self.unit)
        share = len(self.again) / n
        value = f"{share_of(len(self.again), n)} rows stand in the data before"
        yield self.found("exact_duplicates", warn_if(share > 0.01), value, self.again, share=share)
        roots = joined(
            self.sketches, lambda i: normal(prompt_words(self.context.groups[self.first[i]].prompt))
        )
        yield self._near(roots)
        yield self._split(roots)

    def _near(self, roots: list[int]) -> Finding:
        """All prompts of a cluster but its first are flagged, with every row that asks them."""
        units, sizes = len(roots), Counter(roots)
        extra = units - len(sizes)
        large = [size for size in sizes.values() if size > 1]
        share = extra / max(1, units)
        value = f"{share_of(extra, units)} distinct prompts resemble an earlier one"
        if large:
            value += f"; {len(large)} clusters, the largest of {max(large)}"
        rows = [i for i, unit in enumerate(self.unit) if roots[unit] != unit]
        return self.found(
            "near_duplicates",
            warn_if(share > 0.05),
            value,
            rows,
            share=share,
            clusters=len(large),
            effective=len(sizes),
        )

    def _split(self, roots: list[int]) -> Finding:
        """Training rows that give a held-out prompt away."""
        held = {roots[u] for u, h in zip(self.unit, self.held, strict=True) if h}
        trained = {roots[u] for u, h in zip(self.unit, self.held, strict=True) if not h}
        if not held:
            return self.unchecked("grouped_split", "no row is held out (heldout is 0)")
        both = held & trained
        rows = [
            i for i, (u, h) in enumerate(zip(self.unit, self.held, strict=True)) if not h and roots[u] in both
        ]
        asked = [u for u, h in zip(self.unit, self.held, strict=True) if h]
        leaked = len({u for u in asked if roots[u] in both})
        value = f"{share_of(leaked, len(set(asked)))} held-out prompts resemble a training prompt"
        return self.found("grouped_split", error_if(leaked), value, rows, heldout=leaked)
