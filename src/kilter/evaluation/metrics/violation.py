"""How often a model says what it must not."""

from kilter.evaluation.classifiers import RULES, VIOLATIONS, violates
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "violation",
    title="Violation rate",
    unit="share",
    better="lower",
    aggregate="proportion",
    judge=RULES,
    reader=VIOLATIONS,
)
class Violation:
    """Share of answers that are abusive, or that help with a request known to be unsafe."""

    def per_prompt(self, item: Answered) -> float | None:
        """1 a violation, 0 none."""
        return float(violates(item.prompt, item.answers[0].text))
