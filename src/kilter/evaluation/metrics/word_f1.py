"""How many words an answer shares with the reference."""

from collections.abc import Sequence
from dataclasses import dataclass

from kilter.evaluation.metrics.categories import task
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.references import AgainstReferences, word_f1


@metric(
    "f1",
    title="Word F1",
    unit="F1, 0 to 1",
    better="higher",
    aggregate="rate",
    over=("tasks",),
    slices=task,
    judge="the reference",
)
@dataclass(frozen=True)
class WordF1(AgainstReferences):
    """F1 of words, the highest over the references (Rajpurkar et al. 2016).

    key: column of the reference, a text or several of them. mark: only what follows the last mark counts, and
    an answer without it has 0.
    """

    def score(self, text: str, right: Sequence[str]) -> float:
        """F1, the highest over the references."""
        return word_f1(text, right)
