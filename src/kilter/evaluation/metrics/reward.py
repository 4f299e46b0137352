"""The score of a reward model: what a learned judge would pay, which is not what was wanted."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric("reward", title="Reward-model score", unit="reward", better="higher", needs={"reward"})
class Reward:
    """Score of the first answer; unscored where it is not finite or cannot be encoded."""

    def per_prompt(self, item: Answered) -> float | None:
        """In the reward model's own unit."""
        return item.score("reward")
