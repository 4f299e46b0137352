"""Whether the place of an answer in its row tells that it is the better one."""

from __future__ import annotations

from collections.abc import Iterator

from kilter.data.audit.check import Check, Context, families, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.statistics import wilson_bounds

PLACED = ("two_answers", "arena", "llmbar", "alpaca_eval", "ratings", "webgpt", "summary_comparisons")
"""Formats in which the answers stand as people saw them."""

FAR, FEWEST = 0.1, 30


@families.register("position")
class Position(Check):
    """P(the first of two answers is the better one)."""

    rules = (
        Rule(
            "position",
            "Place of the better answer",
            "a label that follows the place may come from a habit of the annotator, or of a judge",
            "show the answers in random order, or judge both orders",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.first = self.n = 0

    def see(self, row: Row) -> None:
        """Counts pairs whose order means something."""
        if row.format in PLACED and row.pair is not None and len(row.texts) == 2:
            self.n += 1
            self.first += row.pair[0] == 0

    def findings(self) -> Iterator[Finding]:
        """With Wilson's interval."""
        if self.n < FEWEST:
            why = "the format names the better side, so that places say nothing"
            yield self.unchecked("position", why if not self.n else f"fewer than {FEWEST} pairs")
            return
        share, (low, high) = self.first / self.n, wilson_bounds(self.first, self.n)
        far = abs(share - 0.5) > FAR and not low <= 0.5 <= high
        value = f"the first answer is better in {share:.0%} [{low:.0%}, {high:.0%}] of {self.n} pairs"
        level = warn_if(far)
        yield self.found("position", level, value, share=share, ci_low=low, ci_high=high, n=self.n)
