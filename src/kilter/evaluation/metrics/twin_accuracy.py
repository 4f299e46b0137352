"""Whether a model decides by the one fact that turns the decision: both of two twins are decided right."""

from kilter.data.worlds.registry import labels_of
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "twin_accuracy",
    title="Twin accuracy",
    unit="share of twins",
    better="higher",
    aggregate="proportion",
    needs={"gold", "twin"},
    subset=lambda prompt: labels_of(prompt).grant is True,
    slices=lambda prompt: labels_of(prompt).slices,
)
class TwinAccuracy:
    """Share of twins of which both are decided right with a score above 0. Constant answers have none."""

    def per_prompt(self, item: Answered) -> float | None:
        """1 both right, 0 not; unscored where the twin was not asked."""
        if item.twin is None:
            return None
        both = [(one.part("gold", "decision"), one.score("gold")) for one in (item, item.twin)]
        if any(decision is None or score is None for decision, score in both):
            return None
        return float(all(decision == 1 and score is not None and score > 0 for decision, score in both))
