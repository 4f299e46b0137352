"""Whether the final answer equals the reference as mathematics."""

from dataclasses import dataclass
from functools import cached_property

from kilter.evaluation.metrics.categories import task
from kilter.evaluation.metrics.registry import metric
from kilter.feedback.isolation import Patience
from kilter.feedback.verifiers import MathAnswer
from kilter.types import Answered


@metric(
    "math_verify",
    title="Right by math-verify",
    unit="share of tasks",
    better="higher",
    aggregate="proportion",
    over=("tasks",),
    slices=task,
    judge="math-verify",
)
@dataclass(frozen=True)
class MathVerify:
    """Share of answers whose final number or formula equals the reference: 0.5 = 1/2 = \\frac{1}{2}.

    key: column of the reference. mark: only what follows the last mark counts, and an answer without it is
    wrong; without a mark the last box, number or formula counts.
    """

    key: str = "answer"
    mark: str = ""

    @cached_property
    def patience(self) -> Patience:
        """Of the whole evaluation: after answers that were made to parse for ever, it waits for no more."""
        return Patience()

    def per_prompt(self, item: Answered) -> float | None:
        """1 right, 0 wrong; unscored where the reference cannot be read, or reading takes too long."""
        verifier = MathAnswer(self.key, self.mark or None)
        return verifier.verdict(item.prompt, item.answers[0], self.patience).score
