"""Win rates as they would be if both answers looked alike: length, headers, lists and bold words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kilter.evaluation.metrics.judge_win_rate import JudgeWinRate
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.metrics.win_rate import WinRateGold, WinRateReward
from kilter.evaluation.style import MARKS, normalised
from kilter.types import Answered

if TYPE_CHECKING:  # a command that measures nothing must not wait for scipy
    from kilter.statistics import Estimate


class StyleControlled:
    """The win rate at equal style; its method has the weight of each feature, or says `not_identified`."""

    plain: WinRateGold | WinRateReward | JudgeWinRate

    def over_corpus(self, items: Sequence[Answered]) -> Estimate:
        """By a logistic regression on normalised differences, as LMArena has them."""
        from kilter.statistics import style_controlled_win_rate

        outcomes = [self.plain.per_prompt(item) for item in items]
        clusters = [item.cluster or f"alone {i}" for i, item in enumerate(items)]
        looks = [
            None
            if item.baseline is None or not item.baseline.answers
            else normalised(item.answers[0], item.baseline.answers[0])
            for item in items
        ]
        ratios = {
            name: [None if look is None else look[name] for look in looks] for name in ("length", *MARKS)
        }
        return style_controlled_win_rate(outcomes, {}, clusters, ratios)


@metric(
    "win_rate_gold_sc",
    title="Win rate by gold at equal style",
    unit="share",
    better="higher",
    aggregate="corpus",
    needs={"gold", "baseline"},
    judge="gold",
)
class WinRateGoldSC(StyleControlled):
    """Win rate by the scores of the gold source, if both answers had the same length and markdown."""

    plain = WinRateGold()


@metric(
    "win_rate_reward_sc",
    title="Win rate by reward model at equal style",
    unit="share",
    better="higher",
    aggregate="corpus",
    needs={"reward", "baseline"},
    judge="reward",
)
class WinRateRewardSC(StyleControlled):
    """Win rate by the scores of the reward model, if both answers had the same length and markdown."""

    plain = WinRateReward()


@metric(
    "judge_win_rate_sc",
    title="Win rate by judge at equal style",
    unit="share",
    better="higher",
    aggregate="corpus",
    needs={"judge", "baseline"},
    judge="judge",
)
class JudgeWinRateSC(StyleControlled):
    """Mean probability that the answer is better, if both had the same length and markdown."""

    plain = JudgeWinRate()
