"""How far values of single answers lie apart: a policy whose lengths or rewards collapse shows here first."""

from kilter.evaluation.metrics.length import Length
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.metrics.reward import Reward


@metric(
    "length_std",
    title="Length, standard deviation",
    unit="tokens",
    better=None,
    aggregate="deviation",
    paired=False,
)
class LengthStd(Length):
    """Standard deviation over prompts of the tokens of the first answer."""


@metric(
    "reward_std",
    title="Reward-model score, standard deviation",
    unit="reward",
    better=None,
    aggregate="deviation",
    needs={"reward"},
    paired=False,
)
class RewardStd(Reward):
    """Standard deviation over prompts of the score of the first answer."""
