"""Whether the reward model agrees with people: how often it prefers the chosen answer of a held-out pair."""

from kilter.evaluation.metrics.categories import categories
from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "reward_model.accuracy",
    title="Reward-model accuracy",
    unit="share of pairs",
    better="higher",
    aggregate="proportion",
    needs={"reward"},
    over=("pairs",),
    slices=categories,
    paired=False,
)
class RewardAccuracy:
    """P(reward of the chosen answer > reward of the rejected one); a tie is not a success."""

    def per_prompt(self, item: Answered) -> float | None:
        """1 right, 0 wrong or a tie; unscored where either answer is."""
        chosen, rejected = (f.score for f in item.feedback["reward"])
        return None if chosen is None or rejected is None else float(chosen > rejected)
