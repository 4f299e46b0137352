"""Whether the reward model knows a right decision from a wrong one where nothing else differs."""

from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.metrics.reward_accuracy import RewardAccuracy


@metric(
    "reward_model.accuracy_decision",
    title="Reward-model accuracy on decisions alone",
    unit="share of pairs",
    better="higher",
    aggregate="proportion",
    needs={"reward"},
    over=("pairs",),
    only=lambda item: item.part("label", "decision_alone") == 1,
    paired=False,
)
class RewardAccuracyDecision(RewardAccuracy):
    """As the accuracy, of the pairs that their world marks as differing in the decision alone."""
