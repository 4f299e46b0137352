"""How often a model's answer scores higher than the baseline's to the same prompt. A tie counts as half."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


def win(candidate: float | None, baseline: float | None) -> float | None:
    """1 if the candidate scores higher, 0 if the baseline does, 1/2 on a tie; None if either is unscored."""
    if candidate is None or baseline is None:
        return None
    return 1.0 if candidate > baseline else 0.0 if candidate < baseline else 0.5


class WinRate:
    """P(score of the answer > score of the baseline's), by one source."""

    source: str

    def per_prompt(self, item: Answered) -> float | None:
        """1 a win, 1/2 a tie, 0 a loss; unscored where either answer is."""
        return (
            None if item.baseline is None else win(item.score(self.source), item.baseline.score(self.source))
        )


@metric(
    "win_rate_gold",
    title="Win rate by gold",
    unit="share",
    better="higher",
    aggregate="wins",
    needs={"gold", "baseline"},
    judge="gold",
    paired=False,
)
class WinRateGold(WinRate):
    """Win rate by the scores of the gold source."""

    source = "gold"


@metric(
    "win_rate_reward",
    title="Win rate by reward model",
    unit="share",
    better="higher",
    aggregate="wins",
    needs={"reward", "baseline"},
    judge="reward",
    paired=False,
)
class WinRateReward(WinRate):
    """Win rate by the scores of the reward model."""

    source = "reward"
