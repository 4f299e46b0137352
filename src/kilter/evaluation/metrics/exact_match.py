"""Whether an answer is the reference, word for word."""

from dataclasses import dataclass

from kilter.evaluation.metrics.categories import task
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.references import references, same, stated
from kilter.types import Answered


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
class ExactMatch:
    """Share of answers that are a reference but for case, punctuation, articles and spaces.

    key: column of the reference, a text or several of them. mark: only what follows the last mark counts, and
    an answer without it is wrong.
    """

    key: str = "answer"
    mark: str = ""

    def per_prompt(self, item: Answered) -> float | None:
        """1 right, 0 wrong; unscored without a reference."""
        right = references(item.prompt, self.key)
        if not right:
            return None
        text = stated(item.answers[0].text, self.mark)
        return 0.0 if text is None else same(text, right)
