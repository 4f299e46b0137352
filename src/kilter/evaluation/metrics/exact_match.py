"""Whether an answer is the reference, word for word."""

from collections.abc import Sequence
from dataclasses import dataclass

from kilter.evaluation.metrics.categories import task
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.references import AgainstReferences, same


@metric(
    "exact_match",
    title="Exact match",
    unit="share of tasks",
    better="higher",
    aggregate="proportion",
    over=("tasks",),
    slices=task,
    judge="the reference",
)
@dataclass(frozen=True)
class ExactMatch(AgainstReferences):
    """Share of answers that are a reference but for case, punctuation, articles and spaces.

    key: column of the reference, a text or several of them. mark: only what follows the last mark counts, and
    an answer without it is wrong.
    """

    def score(self, text: str, right: Sequence[str]) -> float:
        """1 right, 0 wrong."""
        return same(text, right)
