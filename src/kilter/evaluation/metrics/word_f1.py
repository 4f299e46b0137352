"""How many words an answer shares with the reference."""

from dataclasses import dataclass

from kilter.evaluation.metrics.categories import task
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.references import references, stated, word_f1
from kilter.types import Answered


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
class WordF1:
    """F1 of words, the highest over the references (Rajpurkar et al. 2016).

    key: column of the reference, a text or several of them. mark: only what follows the last mark counts, and
    an answer without it has 0.
    """

    key: str = "answer"
    mark: str = ""

    def per_prompt(self, item: Answered) -> float | None:
        """0 to 1; unscored without a reference."""
        right = references(item.prompt, self.key)
        if not right:
            return None
        text = stated(item.answers[0].text, self.mark)
        return 0.0 if text is None else word_f1(text, right)
