"""How often a judge prefers a model's answer to the baseline's, asked in both orders."""

from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.metrics.win_rate import win
from kilter.types import Answered


@metric(
    "judge_win_rate",
    title="Win rate by judge",
    unit="share",
    better="higher",
    aggregate="rate",
    needs={"judge", "baseline"},
    judge="judge",
    paired=False,
)
class JudgeWinRate:
    """Mean probability over both orders that the answer is better than the baseline's."""

    def per_prompt(self, item: Answered) -> float | None:
        """1 a sure win, 1/2 undecided, 0 a sure loss; unscored where an order is."""
        if item.baseline is None or not item.feedback.get("judge"):
            return None
        # The baseline's answer is the first of the group. A judge that grades compares grades.
        own = item.feedback["judge"][0]
        return own.over(0) if own.against else win(own.score, item.baseline.score("judge"))
