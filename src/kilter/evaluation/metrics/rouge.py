"""How many n-grams, or how long a sequence, an answer shares with the reference: ROUGE (Lin 2004)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from kilter.evaluation.metrics.categories import task
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.references import references
from kilter.types import Answered


@metric(
    "rouge",
    key="rouge_{kind}",
    title="ROUGE-{kind}",
    unit="F1, 0 to 1",
    better="higher",
    aggregate="rate",
    over=("tasks",),
    slices=task,
    judge="the reference, by rouge-score",
)
@dataclass(frozen=True)
class Rouge:
    """F1 of ROUGE, the highest over the references, as Google's rouge-score computes it.

    kind: 1, 2, L or Lsum. key: column of the reference, a text or several of them. stem: whether words are
    compared by their stems.
    """

    kind: Literal["1", "2", "L", "Lsum"] = "L"
    key: str = "answer"
    stem: bool = False

    @cached_property
    def scorer(self) -> Any:
        """Opened at the first answer, for its import takes a second."""
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        return RougeScorer([f"rouge{self.kind}"], tokenizer=DefaultTokenizer(self.stem))

    def per_prompt(self, item: Answered) -> float | None:
        """0 to 1; unscored without a reference."""
        right = references(item.prompt, self.key)
        if not right:
            return None
        found = self.scorer.score_multi(right, item.answers[0].text)
        return float(found[f"rouge{self.kind}"].fmeasure)
