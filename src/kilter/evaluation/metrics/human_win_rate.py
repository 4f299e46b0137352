"""How often people prefer a model's answer to the baseline's: their labels, from a file."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "human_win_rate",
    title="Win rate by people",
    unit="share",
    better="higher",
    aggregate="wins",
    needs={"preferred", "baseline"},
    judge="people",
    paired=False,
)
class HumanWinRate:
    """Mean of what people said of the two first answers: 1 a win, 1/2 a tie, 0 a loss; several are averaged.

    Prompts that nobody labelled are unscored.
    """

    def per_prompt(self, item: Answered) -> float | None:
        """0 to 1; the baseline's answer stands first in the group."""
        said = item.feedback.get("preferred")
        return said[0].over(0) if said else None
