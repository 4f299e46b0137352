"""Win rates as they would be if both answers were equally long, or looked alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kilter.evaluation.metrics.judge_win_rate import JudgeWinRate
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.metrics.win_rate import WinRateGold, WinRateReward
from kilter.evaluation.style import length
from kilter.types import Answered

if TYPE_CHECKING:  # a command that measures nothing must not wait for scipy
    from kilter.statistics import Estimate


def _longer(item: Answered) -> float | None:
    """Length of the answer less that of the baseline's."""
    if item.baseline is None or not item.baseline.answers:
        return None
    return float(length(item.answers[0]) - length(item.baseline.answers[0]))


class LengthControlled:
    """The win rate at equal length; without overlap of lengths it has no value, and says `not_identified`."""

    plain: WinRateGold | WinRateReward | JudgeWinRate

    def over_corpus(self, items: Sequence[Answered]) -> Estimate:
        """By a logistic regression on the difference of lengths (Dubois et al. 2024)."""
        from kilter.statistics import length_controlled_win_rate

        outcomes = [self.plain.per_prompt(item) for item in items]
        clusters = [item.cluster or f"alone {i}" for i, item in enumerate(items)]
        return length_controlled_win_rate(outcomes, [_longer(item) for item in items], clusters)


@metric(
    "win_rate_gold_lc",
    title="Win rate by gold at equal length",
    unit="share",
    better="higher",
    aggregate="corpus",
    needs={"gold", "baseline"},
    judge="gold",
)
class WinRateGoldLC(LengthControlled):
    """Win rate by the scores of the gold source, if both answers were equally long."""

    plain = WinRateGold()


@metric(
    "win_rate_reward_lc",
    title="Win rate by reward model at equal length",
    unit="share",
    better="higher",
    aggregate="corpus",
    needs={"reward", "baseline"},
    judge="reward",
)
class WinRateRewardLC(LengthControlled):
    """Win rate by the scores of the reward model, if both answers were equally long."""

    plain = WinRateReward()


@metric(
    "judge_win_rate_lc",
    title="Win rate by judge at equal length",
    unit="share",
    better="higher",
    aggregate="corpus",
    needs={"judge", "baseline"},
    judge="judge",
)
class JudgeWinRateLC(LengthControlled):
    """Mean probability over both orders that the answer is better, if both answers were equally long."""

    plain = JudgeWinRate()
