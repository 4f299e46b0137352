"""Whether the label says who wrote an answer rather than how good it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kilter.data.audit.check import Check, Context, families, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.data.row import is_missing
from kilter.statistics import wilson_bounds

COLUMNS = (
    ("chosen_model", "rejected_model"),
    ("model_chosen", "model_rejected"),
    ("chosen_source", "rejected_source"),
    ("chosen-model", "rejected-model"),
)
"""Columns that name who wrote the sides."""

FAR, FEWEST = 0.3, 20
UNNAMED = "(not named)"


@families.register("source_confound")
class Source(Check):
    """P(better comes from model M) over the pairs of two different models."""

    rules = (
        Rule(
            "source_confound",
            "Who wrote the better answer",
            "the label may say who wrote an answer rather than how good it is",
            "pair answers of the same model, or balance which model wins",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.wins: Counter[str] = Counter()
        self.total: Counter[str] = Counter()

    def see(self, row: Row) -> None:
        """Notes the writers of the better and the worse answer."""
        if row.pair is None:
            return
        names = [row.group.feedback[i].source for i in row.pair]
        if not all(names):
            names = next(
                (
                    [_writer(row.column(c)) for c in pair]
                    for pair in COLUMNS
                    if row.column(pair[0]) is not None
                ),
                [],
            )
        if len(names) == 2 and names[0] != names[1]:
            self.wins[names[0]] += 1
            self.total.update(names)

    def findings(self) -> Iterator[Finding]:
        """The model that wins or loses most beyond chance."""
        if not self.total:
            yield self.unchecked("source_confound", "no column names the models that answered")
            return
        table, far = [], []
        for name, n in self.total.most_common():
            share, (low, high) = self.wins[name] / n, wilson_bounds(self.wins[name], n)
            if n >= FEWEST and abs(share - 0.5) > FAR and not low <= 0.5 <= high:
                far.append(name)
            table.append((name, str(n), f"{share:.3f} [{low:.3f}, {high:.3f}]"))
        most = max(self.total, key=lambda name: abs(self.wins[name] / self.total[name] - 0.5))
        share = self.wins[most] / self.total[most]
        value = (
            f"{len(far)} of {len(table)} writers nearly always win or lose; {most} is better in {share:.0%}"
        )
        head = ("writer", "pairs", "better in")
        level = warn_if(far)
        yield self.found("source_confound", level, value, (), head, table[:30], share=share, n=len(table))


def _writer(value: object) -> str:
    """A writer's name; one side may have none, and still tell the sides apart."""
    return UNNAMED if is_missing(value) else str(value)
