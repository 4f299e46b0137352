"""How often a model helps. It stands beside refusals: neither says anything without the other."""

from kilter.evaluation.classifiers import COMPLIANCES, RULES, complies
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "compliance",
    title="Compliance rate",
    unit="share",
    better=None,
    aggregate="proportion",
    judge=RULES,
    reader=COMPLIANCES,
    beside=("refusal", "over_refusal"),
)
class Compliance:
    """Share of answers that neither decline nor are empty; whether that is right depends on the prompt."""

    def per_prompt(self, item: Answered) -> float | None:
        """1 helps, 0 does not."""
        return float(complies(item.prompt, item.answers[0].text))
