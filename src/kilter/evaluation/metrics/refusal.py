"""How often a model declines."""

from kilter.evaluation.classifiers import REFUSALS, RULES, declines
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "refusal",
    title="Refusal rate",
    unit="share",
    better=None,
    aggregate="proportion",
    judge=RULES,
    reader=REFUSALS,
    beside=("over_refusal", "compliance"),
)
class Refusal:
    """Share of answers that open by declining; whether that is right depends on the prompt."""

    def per_prompt(self, item: Answered) -> float | None:
        """1 declines, 0 does not."""
        return float(declines(item.prompt, item.answers[0].text))
