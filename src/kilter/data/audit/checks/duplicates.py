"""Rows that occur twice, prompts that are nearly the same, and whether the split keeps them together."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kilter.data.audit.check import Check, Context, error_if, families, share_of, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.data.dataset import prompt_words
from kilter.data.near import Distinct, joined, normal
from kilter.hashes import number

Ints = npt.NDArray[np.int64]


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
        self.rows, self.answered = array("q"), array("b")
        self.prompts = Distinct()
        self.first, self.unit, self.held = array("q"), array("q"), array("b")

    def see(self, row: Row) -> None:
        """Sketches a prompt that is new, and notes what the row says as a number."""
        self.rows.append(number(repr((row.key, row.plain, [f.score for f in row.group.feedback]))))
        self.answered.append(bool(row.texts))
        unit = self.prompts.add(normal(row.prompt))
        if unit == len(self.first):
            self.first.append(row.index)
        self.unit.append(unit)
        self.held.append(row.held)

    def findings(self) -> Iterator[Finding]:
        """One for each rule."""
        n, again = len(self.unit), self._again()
        share = len(again) / n
        value = f"{share_of(len(again), n)} rows stand in the data before"
        yield self.found("exact_duplicates", warn_if(share > 0.01), value, again, share=share)
        words = lambda i: normal(prompt_words(self.context.groups[self.first[i]].prompt))
        roots = np.array(joined(self.prompts.sketches, words), np.int64)
        yield self._near(roots)
        yield self._split(roots)

    def _again(self) -> list[int]:
        """Places of the rows that say what an earlier one says; a row without an answer says nothing."""
        _, first = np.unique(np.frombuffer(self.rows, np.int64), return_index=True)
        later = np.frombuffer(self.answered, np.int8).astype(bool)
        later[first] = False
        return np.flatnonzero(later).tolist()

    def _near(self, roots: Ints) -> Finding:
        """All prompts of a cluster but its first are flagged, with every row that asks them."""
        units = len(roots)
        sizes = np.unique(roots, return_counts=True)[1]
        extra = units - len(sizes)
        large = sizes[sizes > 1]
        share = extra / max(1, units)
        value = f"{share_of(extra, units)} distinct prompts resemble an earlier one"
        if len(large):
            value += f"; {len(large)} clusters, the largest of {large.max()}"
        unit = np.frombuffer(self.unit, np.int64)
        rows = np.flatnonzero(roots[unit] != unit).tolist()
        return self.found(
            "near_duplicates",
            warn_if(share > 0.05),
            value,
            rows,
            share=share,
            clusters=len(large),
            effective=len(sizes),
        )

    def _split(self, roots: Ints) -> Finding:
        """Training rows that give a held-out prompt away."""
        unit, held = np.frombuffer(self.unit, np.int64), np.frombuffer(self.held, np.int8).astype(bool)
        if not held.any():
            return self.unchecked("grouped_split", "no row is held out (heldout is 0)")
        cluster = roots[unit]
        both = np.intersect1d(cluster[held], cluster[~held])
        rows = np.flatnonzero(~held & np.isin(cluster, both)).tolist()
        asked = np.unique(unit[held])
        leaked = int(np.isin(roots[asked], both).sum())
        value = f"{share_of(leaked, len(asked))} held-out prompts resemble a training prompt"
        return self.found("grouped_split", error_if(leaked), value, rows, heldout=leaked)
